import pytest

from stages.corpus.example import KINDS, LLAVA_KINDS, Turn
from stages.formats.kinds import declared, inferred


def talk(*texts):
    return [Turn("user" if number % 2 == 0 else "assistant", text) for number, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["Is it red?", "Yes"], "judgement"),
        (["Is it red?", "no."], "judgement"),
        (["Is it red?", "Not sure"], "short"),
        (["What is it?\nOptions: (a) cat (b) dog\n<image>", "(b) dog"], "choice"),
        (["Name it. Options are: day, night.", "It is day."], "short"),
        (["Is it?\nOptions: (a) Yes (b) No", "Yes"], "choice"),
        (["Hello?", "Yes", "And?", "No"], "conversation"),
        (["What?", " ".join(["word"] * 10)], "short"),
        (["What?", " ".join(["word"] * 11)], "long"),
        (["什么？", "字" * 20], "short"),
        (["什么？", "字" * 21], "long"),
        (["什么？", "字" * 10 + " word" * 5], "short"),
        (["什么？", "字" * 10 + " word" * 6], "long"),
        (["What?"], "short"),
    ],
)
def test_the_kind_follows_from_the_conversation(texts, kind):
    assert inferred(talk(*texts)) == kind


def test_upstream_names_of_kinds_become_ours_and_unknown_ones_stay():
    assert [declared(name) for name in ("conv", "detail", "complex")] == ["conversation", "description", "reasoning"]
    assert set(LLAVA_KINDS.values()) <= set(KINDS)
    assert declared("referring") == "referring"
    assert declared("limerick") == "limerick"
