"""MMInstruct rows: LLaVA's, a row a line, in files whose names say the rest.

`jsons_per_domain/qa_per_domain/<domain>_en.jsonl`: the domain is the file's name. `jsons_all/qa_en.jsonl`: all domains, and
no row says which. `caption` in place of `qa`: the answers are captions. `_cn` in place of `_en`: all is Chinese. Rows declare
no kind: how a question ends asks for one of four, in ten wordings each of English and of Chinese.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from stages.corpus.example import IMAGE, Turn
from stages.formats import llava
from stages.formats.draft import UNKNOWN_DOMAIN, Draft, Task, field
from stages.formats.kinds import inferred

LANGUAGE = re.compile(r"_(en|cn|zh)$")
LANGUAGES = {"en": "en", "cn": "zh", "zh": "zh"}
"""How a file's name ends → what its rows are written in, as BCP 47 names it."""
ALL_DOMAINS = {"caption", "qa"}
"""Files named so hold every domain."""
CAPTIONS = re.compile(r"caption(?:_|$)")
SENTENCE_END = re.compile(r"[.?!。？！\n]+")
LETTERED = re.compile(r"(?:^|[\s(（])A[.．、)）:：]\s*\S[\s\S]*?[\s/;；(（]B[.．、)）:：]\s*\S")
"""A list of choices: `A. Venice`, then `B. Rome`. Both, for nothing yet says that it is one, as it does for `text.LETTERED`."""
ENDINGS = {
    "judgement": r"\byes\W+or\W+no\b|是\W*(?:或者?|还是)\W*否",
    "choice": r"\b(?:select|choose|pick|make)\b.*\b(?:choices?|options?|selection)\b"
    r"|(?:选择|挑选|[做作]出).*(?:选项|选择|答案)|选项.*选择",
    "short": r"^(?=.*\b(?:concise(?:ly)?|brief|brevity|short)\b).*\b(?:answer|reply|respon(?:d|se)|keep it)\b"
    r"|^(?=.*(?:简明|简洁|简短)).*(?:回答|回复|回应|答案|保持)",
    "long": r"^(?=.*\b(?:detail(?:ed|s)?|thorough|extensive|comprehensive|depth)\b)"
    r".*\b(?:answer|reply|respon(?:d|se)|explanation)\b"
    r"|^(?=.*(?:详细|详尽|深入)).*(?:回答|答案|解释|解答|阐释|阐述)",
}
"""Kind → the words by which the last sentence of a question asks for it; the first that fits."""
PATTERNS = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in ENDINGS.items()}


def rows(entry: Mapping[str, Any], file: str) -> Iterable[Mapping[str, Any]]:
    """The object itself, with the domain and language its file is named after, and its kind where the file holds captions."""
    path = PurePosixPath(file)
    name = LANGUAGE.sub("", path.stem)
    written = LANGUAGE.search(path.stem)
    holds_captions = any(CAPTIONS.match(part) for part in (*path.parent.parts, path.stem))
    yield {
        **entry,
        "domain": UNKNOWN_DOMAIN if name in ALL_DOMAINS else name,
        "type": "caption" if holds_captions else None,
        "language": LANGUAGES[written[1]] if written else None,
    }


def read_row(row: Mapping[str, Any], tasks: Mapping[str, Task], source: str) -> Draft:
    """One row as a draft; its task is named after the source, the domain and the kind.

    Raises:
        UnreadableError: the row has no conversation, or a field of the wrong type.
    """
    kind = field(row, "type", str, "") or told(llava.read_turns(row))
    task = f"{source}+{field(row, 'domain', str, UNKNOWN_DOMAIN)}+{kind}"
    draft = llava.read_row({**row, "type": kind, "task_name": task}, tasks, source)
    return replace(draft, language=field(row, "language", str, ""))


def told(turns: Sequence[Turn]) -> str:
    """The kind that the questions ask for; where they ask for none, or for several, the one that the answers show.

    Several answers are long ones if each was asked for as such, else a conversation: a judgement, a choice and a short answer
    are held against one truth, and a row of several has no one truth.
    """
    asked = {_asked(turn.text) for turn in turns if turn.role == "user"}
    several = sum(turn.role == "assistant" for turn in turns) > 1
    kind = asked.pop() if len(asked) == 1 else None
    return inferred(turns) if kind is None or (several and kind != "long") else kind


def _asked(question: str) -> str | None:
    if LETTERED.search(question):
        return "choice"
    sentences = [part for part in SENTENCE_END.split(question.replace(IMAGE, "")) if re.search(r"\w", part)]
    return next((kind for kind, pattern in PATTERNS.items() if sentences and pattern.search(sentences[-1])), None)
