from pathlib import Path

import pytest

from stages.benchmarks import llava_bench
from stages.benchmarks.benchmark import read_jsonl, write_jsonl
from stages.benchmarks.judges import RulesJudge, Verdict

GOLDEN = Path(__file__).parents[3].parent / "shared" / "golden" / "llava_bench"
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden cases (../shared) are not on this machine")


@golden
@pytest.mark.parametrize(("run", "relative"), [(1, 72.8), (2, 72.7), (3, 72.1)])
def test_golden_reviews_give_the_official_relative_score(run, relative):
    reviews = read_jsonl(GOLDEN / "reviews" / f"llava-v1.5-13b-eval{run}.jsonl")

    figures = llava_bench.summary(reviews)

    assert figures["relative"] == relative
    assert figures["missing"] == 0
    assert set(figures) == {"relative", "conv", "detail", "complex", "missing"}


@golden
def test_the_rules_prefer_each_reference_answer_to_a_models_answer_on_the_whole(tmp_path):
    (tmp_path / "answers.jsonl").write_bytes((GOLDEN / "answers" / "llava-v1.5-13b.jsonl").read_bytes())

    result = llava_bench.score(tmp_path, GOLDEN / "bench", RulesJudge())

    assert len(result.reviews) == 60
    assert 20 < result.official["relative"] < 95


def test_means_are_rounded_before_their_ratio():
    # The ratio of the plain means, 17 / 18, would print as 94.4.
    pairs = [[8.0, 8.0], [8.0, 5.0], [2.0, 4.0]]

    assert llava_bench.summary([{"category": "llava_bench_conv", "tuple": pair} for pair in pairs])["relative"] == 94.5


def test_a_review_without_a_verdict_is_missing_and_not_zero():
    reviews = [
        {"category": "llava_bench_conv", "tuple": [8.0, 4.0]},
        {"category": "llava_bench_detail", "tuple": [-1, -1]},
    ]

    assert llava_bench.summary(reviews) == {"relative": 50.0, "conv": 50.0, "detail": None, "missing": 1}


class FixedJudge:
    """Gives the verdicts it was made with."""

    def __init__(self, *scores):
        self.scores = scores
        self.cases = []

    def review(self, cases):
        self.cases += cases
        return [Verdict(scores, "said") for scores in self.scores]


def benchmark(folder):
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "1.png").write_bytes(b"a picture")
    questions = [
        {"question_id": 0, "image": "1.png", "text": "What is it?", "category": "conv"},
        {"question_id": 1, "image": "1.png", "text": "Describe it.", "category": "detail"},
    ]
    write_jsonl(folder / "questions.jsonl", questions)
    write_jsonl(folder / "context.jsonl", [{"id": "1", "image": "1.png", "caption": "A red dot."}])
    answers = [{"question_id": number, "text": f"Reference {number}.", "answer_id": f"r{number}"} for number in (0, 1)]
    write_jsonl(folder / "answers_gpt4.jsonl", answers)
    return folder


def test_the_judge_sees_description_question_reference_and_answer(tmp_path):
    reference = benchmark(tmp_path / "llava_bench")
    items = llava_bench.questions(reference)
    llava_bench.write(tmp_path / "answers", "tiny", items, ["A dot.", "A red dot."])
    judge = FixedJudge((8.0, 6.0), None)

    result = llava_bench.score(tmp_path / "answers", reference, judge)

    assert [(case.context, case.question, case.reference, case.answer) for case in judge.cases] == [
        ("A red dot.", "What is it?", "Reference 0.", "A dot."),
        ("A red dot.", "Describe it.", "Reference 1.", "A red dot."),
    ]
    assert [line.score for line in result.marked] == [0.6, None]
    assert [line.kind for line in result.marked] == ["conversation", "description"]
    assert result.figures["relative"].value() == pytest.approx(75.0)
    assert result.official["relative"] == 75.0
    assert result.official["missing"] == 1


def test_reviews_have_the_official_form(tmp_path):
    reference = benchmark(tmp_path / "llava_bench")
    items = llava_bench.questions(reference)
    llava_bench.write(tmp_path / "answers", "tiny", items, ["A dot.", "A red dot."])

    result = llava_bench.score(tmp_path / "answers", reference, FixedJudge((8.0, 6.0), None))

    answer_ids = [row["answer_id"] for row in read_jsonl(tmp_path / "answers" / "answers.jsonl")]
    assert result.reviews[0] == {
        "id": 1,
        "question_id": 0,
        "answer1_id": "r0",
        "answer2_id": answer_ids[0],
        "category": "llava_bench_conv",
        "content": "said",
        "tuple": [8.0, 6.0],
    }
    assert result.reviews[1]["tuple"] == [-1, -1]


def test_the_same_answers_are_written_as_the_same_bytes(tmp_path):
    items = llava_bench.questions(benchmark(tmp_path / "llava_bench"))
    for name in ("one", "two"):
        llava_bench.write(tmp_path / name, "tiny", items, ["A dot.", "A red dot."])

    assert (tmp_path / "one" / "answers.jsonl").read_bytes() == (tmp_path / "two" / "answers.jsonl").read_bytes()


def test_a_question_without_a_reference_answer_is_refused(tmp_path):
    folder = benchmark(tmp_path / "llava_bench")
    write_jsonl(folder / "answers_gpt4.jsonl", [{"question_id": 0, "text": "Reference."}])

    with pytest.raises(ValueError, match="has no answer to question 1"):
        llava_bench.questions(folder)
