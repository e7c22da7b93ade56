"""The proof of a packaged model: held-out questions, answered in a clean process, against the answers on record."""

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from stages.benchmarks.benchmark import read_jsonl
from stages.benchmarks.gate import Condition
from stages.corpus.example import RIGHT_OR_WRONG
from stages.corpus.pictures import read_images, stores

PROGRAM = """
import importlib.util, json, sys
import pandas as pd
assert importlib.util.find_spec("stages") is None, "the project can be imported here: this process proves nothing"
import mlflow
mlflow.set_tracking_uri(sys.argv[2])
mlflow.set_registry_uri(sys.argv[2])
model = mlflow.pyfunc.load_model(sys.argv[1])
answers = []
with open(sys.argv[3], encoding="utf-8") as questions:
    for question in map(json.loads, questions):
        limit = question.pop("max_new_tokens")
        answers += list(model.predict(pd.DataFrame([question]), params={"max_new_tokens": limit})["answer"])
with open(sys.argv[4], "w", encoding="utf-8") as file:
    json.dump(answers, file)
"""
"""The proof's own process: any user's few lines, with nothing of this project within reach."""


@dataclass(frozen=True, slots=True)
class ProofQuestion:
    """A question with its picture, and the answers that the tuned and the base model gave to it."""

    image: bytes | None
    question: str
    max_new_tokens: int
    tuned: str
    base: str

    @property
    def row(self) -> dict[str, str]:
        """As the served model takes it."""
        image = "" if self.image is None else base64.b64encode(self.image).decode()
        return {"image_b64": image, "question": self.question}

    @property
    def example(self) -> tuple[pd.DataFrame, dict[str, int]]:
        """As MLflow keeps it beside the model: a table of one row, and the params."""
        return pd.DataFrame([self.row]), {"max_new_tokens": self.max_new_tokens}


@dataclass(frozen=True, slots=True)
class Proof:
    """What the packaged model did in its clean process."""

    questions: int
    equal: int
    """Answers equal to the tuned model's, letter for letter; all must be."""
    unlike_base: int
    """Answers that the base model did not give; one must be."""
    differing: list[dict[str, str]]
    """The first few that are not equal: question, the tuned model's answer, the package's."""

    @property
    def holds(self) -> bool:
        """The package is the tuned model, and not the base."""
        return self.equal == self.questions and self.unlike_base > 0


def proof_questions(base: Path, tuned: Path, ingested: Path, limits: Mapping[str, int], wanted: int) -> list[ProofQuestion]:
    """At most `wanted` held-out questions with both models' recorded answers, spread over the tasks.

    Raises:
        ValueError: none was held out, or the two models were not asked the same.
    """
    said = {name: _recorded(folder) for name, folder in (("base", base), ("tuned", tuned))}
    if said["base"].keys() != said["tuned"].keys():
        raise ValueError(f"{base} and {tuned} answer different held-out questions; `dvc repro` makes both from one selection")
    if not said["tuned"]:
        raise ValueError(
            "no question was held out, so nothing can be proved of the packaged model; give curate.held_out in "
            "params.yaml a larger share"
        )
    chosen = [said["tuned"][key] for key in _spread(said["tuned"], wanted)]
    digests = {row["image"] for row in chosen if row["image"]}
    pictures = dict(read_images(stores(ingested), digests))
    return [
        ProofQuestion(
            image=pictures[row["image"]] if row["image"] else None,
            question=row["question"],
            max_new_tokens=limits["short" if row["kind"] in RIGHT_OR_WRONG else "long"],
            tuned=row["answer"],
            base=said["base"][row["source"], row["row"]]["answer"],
        )
        for row in chosen
    ]


def _recorded(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    return {(row["source"], row["row"]): row for row in read_jsonl(folder / "held_out" / "answers.jsonl")}


def _spread(rows: Mapping[tuple[str, int], Mapping[str, Any]], wanted: int) -> list[tuple[str, int]]:
    """Keys of `rows`: the first of every task, then the second of every task, and so on, until `wanted` are there."""
    turn: dict[str, int] = {}
    places = []
    for key in sorted(rows):
        task = rows[key]["task"]
        turn[task] = turn.get(task, -1) + 1
        places.append((turn[task], task, key))
    return [key for _, _, key in sorted(places)[:wanted]]


def answers_in_a_clean_process(name: str, version: str, questions: Sequence[ProofQuestion]) -> list[str]:
    """What the version answers, loaded from the registry by a process that has never seen this project."""
    with tempfile.TemporaryDirectory(prefix="proof-") as folder:
        asked, answered = Path(folder) / "questions.jsonl", Path(folder) / "answers.json"
        lines = [json.dumps({**each.row, "max_new_tokens": each.max_new_tokens}) for each in questions]
        asked.write_text("\n".join(lines) + "\n", encoding="utf-8")
        hidden = {"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"}
        environment = {key: value for key, value in os.environ.items() if key not in hidden}
        environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        # -P: the folder it starts in is not searched for modules either.
        words = [sys.executable, "-P", "-c", PROGRAM, f"models:/{name}/{version}", _absolute(mlflow.get_tracking_uri())]
        done = subprocess.run([*words, str(asked), str(answered)], cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"version {version} of {name} does not load and answer in a clean process:\n{done.stderr}")
        answers = json.loads(answered.read_text(encoding="utf-8"))
    assert isinstance(answers, list)
    return answers


def _absolute(uri: str) -> str:
    """`uri`, meaning the same from any folder: SQLite's may be relative to this one."""
    found = re.fullmatch(r"sqlite:///([^/].*)", uri)
    return f"sqlite:///{Path(found[1]).resolve()}" if found else uri


def proof_of(questions: Sequence[ProofQuestion], answers: Sequence[str]) -> Proof:
    """The package's answers held against the recorded ones."""
    pairs = list(zip(questions, answers, strict=True))
    differing = [
        {"question": each.question, "tuned": each.tuned, "packaged": answer} for each, answer in pairs if answer != each.tuned
    ]
    return Proof(
        questions=len(pairs),
        equal=len(pairs) - len(differing),
        unlike_base=sum(answer != each.base for each, answer in pairs),
        differing=differing[:5],
    )


def proof_condition(proof: Proof) -> Condition:
    """The condition of the gate that the package has proved itself."""
    return Condition(
        "proof",
        proof.equal / proof.questions,
        1.0,
        proof.holds,
        f"{proof.equal} of {proof.questions} answers are the tuned model's, {proof.unlike_base} are not the base's",
    )
