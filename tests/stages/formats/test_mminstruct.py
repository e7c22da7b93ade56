import json
import re
from pathlib import Path

import pytest

from stages.corpus import example, ledger
from stages.corpus.example import Turn
from stages.formats.draft import UnreadableError
from stages.formats.mminstruct import read_row, rows, told
from stages.ingest import Params, Source, ingest

ENGINE = Path(__file__).parents[3].parent / "shared" / "samples" / "mminstruct" / "data_engine"
sampled = pytest.mark.skipif(not ENGINE.is_dir(), reason="the samples (../shared) are not on this machine")
KIND_OF = {"judge": "judgement", "select": "choice", "shortsentence": "short", "longsentence": "long"}
LONG = " ".join(["word"] * 30)


def talk(*texts):
    return tuple(Turn(("user", "assistant")[number % 2], text) for number, text in enumerate(texts))


def row(*texts, image="1.jpg"):
    said = [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]
    return {"id": "x", "image": image, "conversations": said}


def draft(entry, file):
    (one,) = rows(entry, file)
    return read_row(one, {}, "mm")


@pytest.mark.parametrize(
    ("file", "domain", "kind"),
    [
        ("jsons_per_domain/qa_per_domain/species_recognition_en.jsonl", "species_recognition", "short"),
        ("jsons_per_domain/qa_per_domain/ocr_cn.jsonl", "ocr", "short"),
        ("posters.jsonl", "posters", "short"),
        ("jsons_per_domain/caption_per_domain/image_emotion_en.jsonl", "image_emotion", "caption"),
        ("jsons_all/caption_cn.jsonl", "other", "caption"),
        ("jsons_all/qa_en.jsonl", "other", "short"),
    ],
)
def test_the_file_says_the_domain_and_which_answers_are_captions(file, domain, kind):
    one = draft(row("<image>\nWhich bird is it?", "A robin."), file)
    assert (one.domain, one.kind, one.task) == (domain, kind, f"mm+{domain}+{kind}")
    assert (one.id, one.images) == ("x", ("1.jpg",))
    assert one.turns == talk("<image>\nWhich bird is it?", "A robin.")


@pytest.mark.parametrize(
    ("file", "language"),
    [("jsons_all/caption_cn.jsonl", "zh"), ("ocr_zh.jsonl", "zh"), ("jsons_all/qa_en.jsonl", "en"), ("posters.jsonl", "")],
)
def test_the_file_says_the_language_where_it_says_one(file, language):
    assert draft(row("<image>\nWhich bird is it?", "A robin."), file).language == language


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Is it a robin? Say 'Yes' or 'No'.", "judgement"),
        ('Is it a robin? Is your word "yes" or "no"?', "judgement"),
        ("它是知更鸟吗？只说'是'或'否'。", "judgement"),
        ("Which bird is it? Pick one of the options.", "choice"),
        ("Which bird is it?\nA. Robin\nB. Wren", "choice"),
        ("Which bird is it?\nA. Robin\nB. Wren\nC. Rook Choose an option.\n<image>", "choice"),
        ("Which bird? (A) Robin (B) Wren", "choice"),
        ("这是什么鸟？\nA．知更鸟\nB．鹪鹩", "choice"),
        ("这是什么鸟？选择一个选项", "choice"),
        ("Which bird is it? Let your answer be brief.", "short"),
        ("这是什么鸟？回答要简短", "short"),
        ("Which bird is it? Answer at length and in detail!", "long"),
        ("Which bird is it? ANSWER IN DETAIL", "long"),
        ("Which bird is it? Answer in detail.\n<image>", "long"),
        ("这是什么鸟？回答要详细。", "long"),
    ],
)
def test_the_end_of_a_question_tells_the_kind_whatever_the_answer_is(question, kind):
    assert told(talk(f"<image>\n{question}", "A robin.")) == kind
    assert told(talk(f"<image>\n{question}", LONG)) == kind


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["Is it a robin?", "Yes."], "judgement"),
        (["Which bird is it?", "A robin."], "short"),
        (["Which bird is it?", LONG], "long"),
        # Not a request but the matter of the question, which another sentence follows.
        (["Which answer is brief? Look at the sign.", LONG], "long"),
        (["这是什么鸟？", "知更鸟"], "short"),
        (["这是什么鸟？", "这是一只站在树枝上的知更鸟，它的胸前有橙红色的羽毛，背部是棕色的"], "long"),
        (["", ""], "short"),
    ],
)
def test_where_no_question_asks_for_a_kind_the_answer_shows_it(texts, kind):
    assert told(talk(*texts)) == kind


def test_several_answers_are_long_ones_if_each_was_asked_for_and_else_a_conversation():
    detailed, brief = "Why? Give a detailed answer.", "Who? Give a brief answer."
    assert told(talk(detailed, LONG, detailed, LONG)) == "long"
    assert told(talk(detailed, LONG, "Who?", LONG)) == "conversation"
    assert told(talk(detailed, LONG, brief, "He.")) == "conversation"
    assert told(talk(brief, "He.", brief, "She.")) == "conversation"


@sampled
@pytest.mark.parametrize("language", ["English", "Chinese"])
def test_every_ending_of_the_release_is_told(language):
    endings = json.loads((ENGINE / "end_prompt.json").read_text(encoding="utf-8"))
    question = {"English": "What is in this picture?", "Chinese": "图中有什么？"}[language]
    wrong = [
        (kind, ending)
        for kind, by_language in endings.items()
        for ending in by_language[language]
        for answer in ("A robin.", LONG)
        if told(talk(f"<image>\n{question}{ending}", answer)) != KIND_OF[kind]
    ]
    assert wrong == []
    assert sum(len(by_language[language]) for by_language in endings.values()) == 40


@sampled
def test_no_question_of_the_releases_seeds_is_taken_for_one_that_asks_for_a_kind_unless_it_does():
    told_as = {}
    for path in sorted((ENGINE / "all_seed").glob("*.json")):
        seeds = json.loads(path.read_text(encoding="utf-8") or "{}")
        questions = [text for by_language in seeds.values() for texts in by_language.values() for text in texts]
        told_as |= {text: told(talk(text, "A robin.")) for text in questions}
    assert set(told_as.values()) == {"short", "long"}
    assert {text for text, kind in told_as.items() if kind == "long"} == {
        text for text in told_as if re.search("detailed explanation|详细解释", text)
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"conversations": None}, "no_conversation"),
        ({"conversations": [7]}, "wrong_type: conversations[0] is int, wanted object"),
        ({"image": {"bytes": ""}}, "wrong_type: image.bytes is str, wanted bytes"),
    ],
)
def test_a_row_of_another_form_is_refused_with_the_field(change, reason):
    with pytest.raises(UnreadableError) as refused:
        draft({**row("Who?", "He."), **change}, "ocr_en.jsonl")
    assert str(refused.value) == reason


def test_the_files_of_all_domains_are_one_source_in_the_order_of_their_names(tmp_path, png):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(png("red"))
    folder = tmp_path / "jsons_per_domain" / "qa_per_domain"
    folder.mkdir(parents=True)
    one = json.dumps(row("<image>\nIs it red? Answer 'Yes' or 'No'.", "Yes"))
    (folder / "ocr_en.jsonl").write_text(f"{one}\n")
    (folder / "artwork_en.jsonl").write_text(f"{one}\n{{broken\n[]\n{one}\n")
    unsaid = dict.fromkeys(("hub", "instructions", "licence", "language", "exclude"))
    source = Source(
        format="mminstruct", folder="unused", annotations="jsons_per_domain/qa_per_domain/*.jsonl",
        images="images", origin="synthesized", **unsaid,
    )  # fmt: skip
    for name in ("first", "second"):
        ingest(Params(sources={"mm": source}, shard_rows=1000, shard_mib=1), "mm", tmp_path, tmp_path / name)
    lines = ledger.read(tmp_path / "first" / "ledger.parquet")
    assert [(line.row, line.reason.split(":")[0], line.file.rpartition("/")[2]) for line in lines] == [
        (0, "", "artwork_en.jsonl"),
        (1, "not_json", "artwork_en.jsonl"),
        (2, "not_an_object", "artwork_en.jsonl"),
        (3, "", "artwork_en.jsonl"),
        (4, "", "ocr_en.jsonl"),
    ]
    examples = example.read_all(tmp_path / "first" / "examples")
    assert [(line.row, line.domain, line.kind) for line in examples] == [
        (0, "artwork", "judgement"), (3, "artwork", "judgement"), (4, "ocr", "judgement"),
    ]  # fmt: skip
    for path in (tmp_path / "first").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "second" / path.relative_to(tmp_path / "first")).read_bytes()
