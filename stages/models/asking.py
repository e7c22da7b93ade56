"""Questions put to a model: in batches, longest answers first, by one process or several."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.models.question import Question
from stages.running.progress import progress
from stages.running.workers import mapped


@dataclass(frozen=True, slots=True)
class How:
    """How a model is asked."""

    device: str
    """auto, cpu or cuda."""
    threads: int
    """CPU threads of each process."""
    processes: int
    """On CPU so many share the batches; a GPU is driven by one."""
    precision: str
    """fp32 or bf16."""
    batch: int
    """Questions at once."""


def ask(model: Path, questions: Sequence[Question], how: How) -> list[str]:
    """The answers of the model in the folder `model`, in the order of the questions, without surrounding white space."""
    batches = batched(questions, how.batch)
    given = (model, how.device, how.threads, how.precision)
    done = mapped(_ready, given, ([questions[index] for index in batch] for batch in batches), _processes(how))
    answers = [""] * len(questions)
    for batch, texts in zip(batches, progress(done, "answer", "batch", total=len(batches)), strict=True):
        for index, text in zip(batch, texts, strict=True):
            answers[index] = text
    return answers


def batched(questions: Sequence[Question], size: int) -> list[list[int]]:
    """The questions' numbers in runs of at most `size`, alike in where they are cut and whether they have picture or options.

    Questions about one picture stand together, for it is then looked at once. The longest come first: what does not fit into
    memory shows at once, and several processes end at about the same time.
    """
    about: dict[tuple[int, bool, bytes | int], list[int]] = {}
    for index, question in enumerate(questions):
        shown = index if question.image is None else question.image
        about.setdefault((question.max_new_tokens, bool(question.options), shown), []).append(index)

    def length(group: Sequence[int]) -> tuple[int, bool, bool, int]:
        first, longest = questions[group[0]], max(len(questions[index].text) for index in group)
        return first.max_new_tokens, first.image is not None, bool(first.options), longest

    batches: list[list[int]] = []
    for group in sorted(about.values(), key=length, reverse=True):
        for start in range(0, len(group), size):  # more questions than a batch may have are asked in several
            part = group[start : start + size]
            if batches and len(batches[-1]) + len(part) <= size and length(batches[-1])[:3] == length(part)[:3]:
                batches[-1] += part
            else:
                batches.append(list(part))
    return batches


def _ready(model: Path, device: str, threads: int, precision: str) -> Callable[[Sequence[Question]], list[str]]:
    from stages.models.answering import Answerer  # here, for it takes seconds, and who starts others need not wait

    return Answerer(model, device, threads, precision)


def _processes(how: How) -> int:
    if how.processes > 1 and how.device != "cpu":
        from stages.models.device import resolve_device

        return 1 if resolve_device(how.device) == "cuda" else how.processes
    return how.processes
