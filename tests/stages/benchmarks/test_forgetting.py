import pytest

from stages.benchmarks import forgetting
from stages.benchmarks.judges import RulesJudge

DIGITS = [str(number) for number in range(10)]


@pytest.mark.parametrize(
    ("answer", "labels", "found"),
    [
        ("7", DIGITS, {"7"}),
        ("The number is 7.", DIGITS, {"7"}),
        ("Seven", DIGITS, {"7"}),
        ("17", DIGITS, set()),
        ("[0.43, 0.52]", DIGITS, set()),
        ("7 or 9", DIGITS, {"7", "9"}),
        ("0, 1, 2, 3, 4, 5, 6, 7, 8, 9", DIGITS, set(DIGITS)),
        ("A Circle!", ["circle", "square"], {"circle"}),
        ("a fish in a tank", ["aquarium fish", "bear"], set()),
        ("aquarium_fish", ["aquarium fish", "fish"], {"aquarium fish"}),
        ("one circle", ["circle", "square"], {"circle"}),
    ],
)
def test_labels_are_found_as_whole_words(answer, labels, found):
    assert forgetting.named(answer, labels) == found


def benchmark(folder):
    for name in ("digits/0/1.png", "digits/1/2.png", "digits/1/10.png", "shapes/circle/1.png", "shapes/plus_sign/1.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_each_picture_is_asked_with_all_labels_of_its_set(tmp_path):
    items = forgetting.questions(benchmark(tmp_path / "forgetting"))

    assert [item.id for item in items][:3] == ["digits/0/1.png", "digits/1/2.png", "digits/1/10.png"]
    assert items[0].text == "What is the number in the image? Please only answer a single number in 0, 1."
    assert items[-1].text == "What is the object in the image? Please only answer a single object in circle, plus sign."
    assert items[-1].truth == "plus sign"
    assert items[-1].picture
    assert items[-1].picture() == b"shapes/plus_sign/1.png"


def test_the_score_is_the_mean_over_sets_of_right_labels(tmp_path):
    reference = benchmark(tmp_path / "forgetting")
    items = forgetting.questions(reference)

    forgetting.write(tmp_path / "answers", "tiny", items, ["0", "1", "0 or 1", "a square", "Plus sign."])

    result = forgetting.score(tmp_path / "answers", reference, RulesJudge())
    assert result.official["tasks"] == {"digits": pytest.approx(2 / 3), "shapes": 0.5}
    assert result.official["accuracy"] == pytest.approx((2 / 3 + 0.5) / 2)
    assert [line.score for line in result.marked] == [1.0, 1.0, 0.0, 0.0, 1.0]


def test_a_folder_without_sets_says_what_is_wanted(tmp_path):
    (tmp_path / "forgetting").mkdir()

    with pytest.raises(ValueError, match=r"wanted are pictures <set>/<label>/<name>.png"):
        forgetting.questions(tmp_path / "forgetting")
