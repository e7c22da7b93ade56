"""Vision-Flan rows, in both of their forms.

Release: LLaVA's conversations plus `task_name`; ids repeat. Pre-format: `instance_id`, `task_name`, `img_path`,
`input_text`, `options`, `raw_output`, `output`. There the question is an expert's instruction and the row's input. Where the
row carries the instruction it is whole already; where the source has a file of instructions per task, the row is
*templated*: it holds the bare input, and `render` draws one of the task's instructions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from stages.corpus.example import IMAGE, Turn
from stages.formats import llava
from stages.formats.draft import UNKNOWN_DOMAIN, Draft, Task, UnreadableError, field, identity, texts
from stages.formats.embedded import pictures_in
from stages.formats.kinds import inferred


def read_row(row: Mapping[str, Any], tasks: Mapping[str, Task], source: str) -> Draft:
    """One row of either form as a draft.

    Raises:
        UnreadableError: it has no conversation, no answer, no instruction, or a field of the wrong type.
    """
    if "conversations" in row or not {"instance_id", "img_path", "output", "instruction"} & row.keys():
        return llava.read_row(row, tasks, source)
    return _read_pre_format(row, tasks)


def _read_pre_format(row: Mapping[str, Any], tasks: Mapping[str, Task]) -> Draft:
    name = field(row, "task_name", str)
    options = texts(row, "options")
    asked, templated = _question(row, name, options, tasks)
    images = pictures_in(row, "images") or pictures_in(row, "img_path")
    answer = row.get("output")
    if answer is None:
        raise UnreadableError("no_answer")
    marks = "\n".join([IMAGE] * len(images))
    turns = (
        Turn(role="user", text="\n".join(part for part in (marks, asked) if part)),
        Turn(role="assistant", text=field(row, "output", str)),
    )
    task = tasks.get(name)
    return Draft(
        id=identity(row, "instance_id"),
        task=name,
        domain=task.domain if task else UNKNOWN_DOMAIN,
        kind=task.kind if task else inferred(turns),
        images=images,
        turns=turns,
        templated=templated,
    )


def _question(row: Mapping[str, Any], task: str, options: Sequence[str], tasks: Mapping[str, Task]) -> tuple[str, bool]:
    """The text of the user's turn, and whether it still wants an instruction."""
    given = field(row, "input_text", str, "").strip()
    instruction = field(row, "instruction", str, "").strip()
    # Some releases write input and options into the instruction as well; nothing is said twice.
    parts = [instruction] if instruction else []
    if given and given not in instruction:
        parts.append(given)
    question = "\n\n".join(parts)
    if options and not all(option in question for option in options):
        question = "\n".join(part for part in (question, lettered(options)) if part)
    if instruction:
        return question, False
    if task in tasks:
        return question, True
    if tasks:
        raise UnreadableError(f"no_instruction: the instructions file has no task {task}")
    if not given:
        raise UnreadableError("no_instruction: neither the row nor an instructions file has one")
    return question, False


def lettered(options: Sequence[str]) -> str:
    """Vision-Flan's line of choices: `["red", "blue"]` → `Options: (a) red (b) blue`."""
    return "Options: " + " ".join(f"({_letter(index)}) {option}" for index, option in enumerate(options))


def _letter(index: int) -> str:
    before, last = divmod(index, 26)
    return (_letter(before - 1) if before else "") + "abcdefghijklmnopqrstuvwxyz"[last]
