"""The ledger of real rows: `python bench/samples.py SAMPLES`, where SAMPLES holds small pieces of public releases.

Takes what the releases hold as it is (Vision-Flan's site), or turns it into rows of the format that fits (TabMWP, MNIST,
CIFAR-10 into tasks of Vision-Flan's form; LLaVA's ninety rows, whose pictures are not there; LLaVA-Bench's questions with
GPT-4's answers as MMInstruct has its rows), runs ingest, validate, curate and render, and writes how every source's rows ended
to bench/results/samples.json. No model is tuned.
"""

import argparse
import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a file, it sees only its own folder

from bench import corpus, machine  # noqa: E402
from stages.corpus import ledger  # noqa: E402
from stages.running.section import read_params  # noqa: E402

Rows = list[dict[str, Any]]
CLASSES = "Which of these does the picture show?"
DIGIT = "Which digit is written here?"


def main() -> None:
    """Lay the sources out, run the data half, write and show the funnel."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("samples", type=Path, help="the folder with the samples")
    parser.add_argument("--folder", type=Path, default=ROOT / ".work" / "samples", help="where to run; removed first")
    asked = parser.parse_args()
    shutil.rmtree(asked.folder, ignore_errors=True)
    sources = laid_out(asked.samples.resolve(), asked.folder)
    prepared(asked.folder, sources)
    for name in [*sources, "captions", "chats"]:
        corpus.command(asked.folder, "ingest", name, corpus.folder_of(asked.folder, name), f"data/ingest/{name}")
    for stage in corpus.STAGES[1:]:
        corpus.command(asked.folder, *corpus.words_of(stage, asked.folder))
    found = funnel(asked.folder / "data")
    for source, ends in found.items():
        print(f"\n{source}: {sum(ends.values())} rows")
        for end, rows in ends.items():
            print(f"  {rows:>6}  {end}")
    figures = {"machine": machine.describe(), "rows": found}
    print(f"\nwritten: {machine.write('samples', figures).relative_to(ROOT)}")


def laid_out(samples: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """The sources below `folder`, pictures as links to folders of `samples`; of each its entry in params."""
    site = samples / "vision_flan_site"
    return {
        "vision_flan_site": source(folder, "vision_flan_site", "vision_flan", site, "tasks_web.json", "imgs"),
        "vision_flan_preformat": source(folder, "vision_flan_preformat", "vision_flan", site, "data.json", "imgs"),
        "tabmwp": source(folder, "tabmwp", "vision_flan", samples / "tabmwp", tabmwp(samples / "tabmwp"), "tables"),
        "mnist": source(folder, "mnist", "vision_flan", samples / "mnist", mnist(samples / "mnist"), "train"),
        "cifar10": source(folder, "cifar10", "vision_flan", samples / "cifar10", cifar(samples / "cifar10"), "train"),
        "llava_90": source(folder, "llava_90", "llava", samples / "llava", llava(samples / "llava"), None),
        "wild_as_mminstruct": source(
            folder, "wild_as_mminstruct", "mminstruct", samples / "llava_bench_in_the_wild", wild(samples), "images"
        ),
    }  # fmt: skip


def source(folder: Path, name: str, form: str, at: Path, rows: Rows | str, images: str | None) -> dict[str, Any]:
    """One source: its rows as a file (copied, if it is one), its pictures copied."""
    place = folder / "sources" / name
    place.mkdir(parents=True)
    file = rows if isinstance(rows, str) else "image_scene_en.jsonl" if form == "mminstruct" else "rows.json"
    if isinstance(rows, str):
        shutil.copy(at / rows, place / rows)
    elif form == "mminstruct":
        (place / file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        (place / file).write_text(json.dumps(rows), encoding="utf-8")
    if images:
        shutil.copytree(at / images, place / images)
    return {"format": form, "folder": f"sources/{name}", "annotations": file, "images": images, "origin": "human"}


def tabmwp(at: Path) -> Rows:
    """Questions about pictures of tables: a choice where there are choices, else a short answer."""
    problems = json.loads((at / "problems_dev1k_sample300.json").read_text(encoding="utf-8"))
    rows = []
    for name, one in problems.items():
        options = one["choices"]
        asked = one["question"]
        answer = str(one["answer"])
        if options:
            letters = "abcdefghij"
            asked += "\nOptions: " + " ".join(f"({letters[n]}) {option}" for n, option in enumerate(options))
            answer = f"({letters[options.index(answer)]}) {answer}"
        rows.append(row(f"tabmwp_{name}", f"{name}.png", f"TabMWP+{one['ques_type']}", asked, answer))
    return rows


def mnist(at: Path) -> Rows:
    """Digits by name."""
    with (at / "train.csv").open(encoding="utf-8") as file:
        paths = [(line["filepath"].removeprefix("train/"), line["label"]) for line in csv.DictReader(file)]
    return [row(f"mnist_{path}", path, "MNIST+digit", DIGIT, label) for path, label in paths]


def cifar(at: Path) -> Rows:
    """Classes, as a choice among all ten."""
    classes = sorted(path.name for path in (at / "train").iterdir() if path.is_dir())
    options = " ".join(f"({'abcdefghij'[n]}) {name}" for n, name in enumerate(classes))
    return [
        row(
            f"cifar_{path.stem}",
            f"{name}/{path.name}",
            "CIFAR10+class",
            f"{CLASSES}\nOptions: {options}",
            f"({'abcdefghij'[n]}) {name}",
        )
        for n, name in enumerate(classes)
        for path in sorted((at / "train" / name).iterdir())
    ]


def llava(at: Path) -> Rows:
    """Ninety of GPT-4's answers, in LLaVA's form."""
    lines = (at / "playground" / "data" / "coco2014_val_gpt4_qa_30x3.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return [talk(one["id"], one["image"], one["instruction"], one["output"]) for one in found]


def wild(samples: Path) -> Rows:
    """LLaVA-Bench's questions with GPT-4's answers."""
    at = samples / "llava_bench_in_the_wild"
    asked, said = (
        [json.loads(line) for line in (at / name).read_text(encoding="utf-8").splitlines()]
        for name in ("questions.jsonl", "answers_gpt4.jsonl")
    )
    return [
        talk(f"wild_{one['question_id']}", one["image"], one["text"], answer["text"])
        for one, answer in zip(asked, said, strict=True)
    ]


def row(name: str, image: str, task: str, asked: str, answer: str) -> dict[str, Any]:
    """One of Vision-Flan's rows."""
    return {**talk(name, image, asked, answer), "task_name": task}


def talk(name: str, image: str, asked: str, answer: str) -> dict[str, Any]:
    """One of LLaVA's rows."""
    turns = [{"from": "human", "value": f"<image>\n{asked}"}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": image, "conversations": turns}


def prepared(folder: Path, sources: dict[str, dict[str, Any]]) -> None:
    """Params with these sources for train, the embedded captions and chats for the other stages, a base model."""
    params = read_params(ROOT / "params.yaml")
    (folder / "accepted").mkdir()
    params["sample"] |= {"scenes": 60, "captions": 300, "chats": 300, "benchmark_images": 20}
    about = params["ingest"]["sources"].pop("tasks")
    params["ingest"]["sources"] |= {name: {**about, "instructions": None, **one} for name, one in sources.items()}
    # Of LLaVA's rows none is left after ingest, and a stage cannot learn from a source without rows.
    params["curate"]["train"]["sources"] = [name for name in sources if name != "llava_90"]
    params["curate"] |= {"balance": False, "held_out": 0.1}
    # Pictures of CIFAR-10 have 32 pixels a side, rows of the site one task each, and all of LLaVA's pictures are missing.
    params["validate"]["max_quarantined"] = 1.0
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    corpus.command(folder, "sample", "data/sample")
    corpus.command(folder, "base", "data/base/model")


def funnel(data: Path) -> dict[str, dict[str, int]]:
    """Of each source, how many rows ended in each state, with the reason's name."""
    parts = ledger.read_parts(data / "ingest", data / "validate", data / "curate", data / "render")
    found: dict[str, dict[str, int]] = {}
    for count in ledger.funnel(ledger.join(parts)):
        found.setdefault(count.source, {})[f"{count.state}: {count.reason}"] = count.rows
    return found


if __name__ == "__main__":
    main()
