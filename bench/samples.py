"""The ledger of real rows: `python bench/samples.py SAMPLES`, where SAMPLES holds small pieces of public releases.

Takes what the releases hold as it is (Vision-Flan's site), or turns it into rows of the format that fits: TabMWP, MNIST and
CIFAR-10 into tasks of Vision-Flan's form; LLaVA's ninety rows, whose pictures are not there; LLaVA-Bench's questions with
GPT-4's answers into rows of LLaVA's, while the firewall holds the same benchmark, so that all of them must be found
contaminated. Of MMInstruct no released row is at hand, but what its rows are made from: the seed questions of its domains in
two languages, the endings that ask for a kind of answer, and its figure of examples, from which each domain's picture is cut.
Only the answers of these rows are made up here.

Runs ingest, validate, curate and render, and writes how every source's rows ended, and of how many of MMInstruct's rows the
kind was told as it was asked for, to bench/results/samples.json. No model is tuned.
"""

import argparse
import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a file, it sees only its own folder

from bench import corpus, machine  # noqa: E402
from stages.corpus import ledger  # noqa: E402
from stages.running.section import read_params  # noqa: E402

Rows = list[dict[str, Any]]
CLASSES = "Which of these does the picture show?"
DIGIT = "Which digit is written here?"
LICENCES = {
    "vision_flan_site": "research only",
    "vision_flan_preformat": "research only",
    "tabmwp": "CC-BY-NC-SA-4.0",
    "mnist": "MIT",
    "llava_90": "Apache-2.0",
    "mminstruct": "Apache-2.0",
}
"""As the samples declare them; of the others nobody said."""
SYNTHESIZED = {"llava_90", "llava_bench", "mminstruct"}
FIGURE = (
    ("posters", "image_scene", "landmark", "brand_recognition", "artwork"),
    ("object_localization", "attribute_recognition", "ocr", "object_relation", "image_comparison"),
    ("image_style", "image_quality", "image_description", "future_prediction", "species_recognition"),
    ("image_emotion", "numerical_calculation", "spatial_relationship", "commonsense_reasoning", "meme_comprehension"),
    ("writing", "complex_reasoning", "social_relation"),
)
"""Which domain's picture stands where in MMInstruct's figure of examples."""
COLOURS = ("red", "green", "blue", "grey")
LEFT, TOP, SIZE = (45, 226, 407, 588, 769), (24, 271, 496, 802, 1023), (172, 116)
"""Where its columns and rows begin and how large its pictures are, in pixels."""
KINDS = {"judge": "judgement", "select": "choice", "shortsentence": "short", "longsentence": "long"}
"""What MMInstruct calls its kinds of answers → the project's."""


def main() -> None:
    """Lay the sources out, run the data half, write and show the funnel."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("samples", type=Path, help="the folder with the samples")
    parser.add_argument("--folder", type=Path, default=ROOT / ".work" / "samples", help="where to run; removed first")
    asked = parser.parse_args()
    commit, described = machine.commit(), machine.describe()
    run(asked.samples.resolve(), asked.folder)
    found, told = funnel(asked.folder / "data"), kinds_told(asked.folder / "data")
    for source, ends in found.items():
        print(f"\n{source}: {sum(ends.values())} rows")
        for end, rows in ends.items():
            print(f"  {rows:>6}  {end}")
    print(f"\nmminstruct: the kind as asked for in {told['as asked']} rows, another in {told['another']}")
    figures = {"commit": commit, "machine": described, "rows": found, "kinds told of mminstruct": told}
    print(f"\nwritten: {machine.write('samples', figures).relative_to(ROOT)}")


def run(samples: Path, folder: Path) -> None:
    """The data half on all of `samples`, in `folder`, which is removed first."""
    shutil.rmtree(folder, ignore_errors=True)
    sources = laid_out(samples, folder)
    prepared(folder, sources, samples)
    for name in [*sources, "captions", "chats"]:
        corpus.command(folder, "ingest", name, corpus.folder_of(folder, name), f"data/ingest/{name}")
    for stage in corpus.STAGES[1:]:
        corpus.command(folder, *corpus.words_of(stage, folder))


def laid_out(samples: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """The sources below `folder`; of each its entry in params."""
    site = samples / "vision_flan_site"
    return {
        "vision_flan_site": source(folder, "vision_flan_site", "vision_flan", site, "tasks_web.json", "imgs"),
        "vision_flan_preformat": source(folder, "vision_flan_preformat", "vision_flan", site, "data.json", "imgs"),
        "tabmwp": source(folder, "tabmwp", "vision_flan", samples / "tabmwp", tabmwp(samples / "tabmwp"), "tables"),
        "mnist": source(folder, "mnist", "vision_flan", samples / "mnist", mnist(samples / "mnist"), "train"),
        "cifar10": source(folder, "cifar10", "vision_flan", samples / "cifar10", cifar(samples / "cifar10"), "train"),
        "llava_90": source(folder, "llava_90", "llava", samples / "llava", llava(samples / "llava"), None),
        "llava_bench": source(
            folder, "llava_bench", "llava", samples / "llava_bench_in_the_wild", wild(samples), "images"
        ),
        "mminstruct": mminstruct(samples / "mminstruct", folder),
    }  # fmt: skip


def source(folder: Path, name: str, form: str, at: Path, rows: Rows | str, images: str | None) -> dict[str, Any]:
    """One source: its rows as a file (copied, if it is one), its pictures copied."""
    place = folder / "sources" / name
    place.mkdir(parents=True)
    file = rows if isinstance(rows, str) else "rows.json"
    if isinstance(rows, str):
        shutil.copy(at / rows, place / rows)
    else:
        (place / file).write_text(json.dumps(rows), encoding="utf-8")
    if images:
        shutil.copytree(at / images, place / images)
    return entry(name, form, file, images)


def entry(name: str, form: str, annotations: str, images: str | None) -> dict[str, Any]:
    """A source's entry in params."""
    return {
        "format": form,
        "folder": f"sources/{name}",
        "annotations": annotations,
        "images": images,
        "origin": "synthesized" if name in SYNTHESIZED else "human",
        "licence": LICENCES.get(name),
    }


def mminstruct(at: Path, folder: Path) -> dict[str, Any]:
    """A file of rows for each file of seeds and language, empty ones too, and the pictures of the figure."""
    place = folder / "sources" / "mminstruct"
    (place / "images").mkdir(parents=True)
    with Image.open(at / "figs" / "example_in_domain.png") as figure:
        for top, domains in zip(TOP, FIGURE, strict=True):
            for left, domain in zip(LEFT, domains, strict=False):
                cut = figure.crop((left, top, left + SIZE[0], top + SIZE[1]))
                cut.save(place / "images" / f"{domain}.png")
    endings = json.loads((at / "data_engine" / "end_prompt.json").read_text(encoding="utf-8"))
    for file in sorted((at / "data_engine" / "all_seed").iterdir()):
        domain, text = file.stem.split("_", 1)[1], file.read_text(encoding="utf-8")
        seeds = json.loads(text) if text.strip() else {}
        for language, short in (("English", "en"), ("Chinese", "cn")):
            rows = seeded(domain, seeds, endings, language)
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (place / f"{domain}_{short}.jsonl").write_text(lines, encoding="utf-8")
    return entry("mminstruct", "mminstruct", "*.jsonl", "images")


def seeded(domain: str, seeds: dict[str, Any], endings: dict[str, Any], language: str) -> Rows:
    """Rows of one domain: each seed with the next ending that asks for its kind; a sentence is asked for in both kinds."""
    rows: Rows = []
    for seed_kind, kinds in (("judge", ["judge"]), ("choice", ["select"]), ("sentence", ["shortsentence", "longsentence"])):
        for question in seeds.get(seed_kind, {}).get(language, ()):
            for kind in kinds:
                ending = endings[kind][language][len(rows) % len(endings[kind][language])]
                options, answer = answered(kind, len(rows), language)
                name = f"{domain}.{KINDS[kind]}.{language}.{len(rows)}"
                rows.append(talk(name, f"{domain}.png", question + options + ending, answer))
    return rows


def answered(kind: str, number: int, language: str) -> tuple[str, str]:
    """The options to be added to a question, if any, and an answer."""
    chinese = language == "Chinese"
    if kind == "judge":
        return "", ("是", "否")[number % 2] if chinese else ("Yes", "No")[number % 2]
    if kind == "select":
        options = [f"{letter}. {word}" for letter, word in zip("ABCD", "红绿蓝灰" if chinese else COLOURS, strict=True)]
        return "\n" + "\n".join(options) + "\n", options[number % 4]
    short, long = (
        ("红色", "可以看到红色，旁边是绿色。") if chinese else ("Red", "There is something red, and something green beside it.")
    )
    return "", short if kind == "shortsentence" else long


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


def prepared(folder: Path, sources: dict[str, dict[str, Any]], samples: Path) -> None:
    """Params with these sources for train, the embedded captions and chats for the other stages, a base model, benchmarks."""
    params = read_params(ROOT / "params.yaml")
    (folder / "accepted").mkdir()
    params["sample"] |= {"scenes": 60, "captions": 300, "chats": 300, "benchmark_images": 20}
    about = params["ingest"]["sources"].pop("tasks")
    params["ingest"]["sources"] |= {name: {**about, "instructions": None, **one} for name, one in sources.items()}
    # Of LLaVA's rows none is left after ingest, and a stage cannot learn from a source without rows.
    params["curate"]["train"]["sources"] = [name for name in sources if name != "llava_90"]
    params["curate"] |= {"balance": False, "held_out": 0.1}
    # All of LLaVA's pictures are missing.
    params["validate"]["max_quarantined"] = 1.0
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    corpus.command(folder, "sample", "data/sample")
    corpus.command(folder, "base", "data/base/model")
    real = folder / "data" / "sample" / "benchmarks" / "llava_bench"
    shutil.rmtree(real)
    shutil.copytree(samples / "llava_bench_in_the_wild", real)


def funnel(data: Path) -> dict[str, dict[str, int]]:
    """Of each source, how many rows ended in each state, with the reason's name."""
    parts = ledger.read_parts(data / "ingest", data / "validate", data / "curate", data / "render")
    found: dict[str, dict[str, int]] = {}
    for count in ledger.funnel(ledger.join(parts)):
        found.setdefault(count.source, {})[f"{count.state}: {count.reason}"] = count.rows
    return found


def kinds_told(data: Path) -> dict[str, int]:
    """Of how many of MMInstruct's rows that can be read the kind was told as their ids have it, and of how many another."""
    lines = pl.read_parquet(data / "ingest" / "mminstruct" / "ledger.parquet")
    read = lines.filter(pl.col("state") == ledger.ON)
    asked = read["id"].str.split(".").list.get(1)
    told = read["task"].str.split("+").list.last()
    return {"as asked": int((asked == told).sum()), "another": int((asked != told).sum())}


if __name__ == "__main__":
    main()
