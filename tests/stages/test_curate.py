import io
import json
import random
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from stages import curate as stage
from stages.corpus import example, ledger, shards
from stages.corpus.contamination import LINES, Contamination
from stages.corpus.coreset import Coreset
from stages.corpus.example import Example, Turn
from stages.corpus.images import ImageWriter
from stages.corpus.ledger import Line
from stages.curate import Align, Choice, Connect, Duplicates, Params, Quotas, Train, curate
from stages.running import compute
from stages.running.endpoint import Endpoint


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """What is kept between runs lies in the folder the process stands in."""
    monkeypatch.chdir(tmp_path)


def row(number, *, source="tasks", picture=None, task="colour", kind="short", question="What?", answer="red", **more):
    images = (f"picture-{number}",) if picture is None else tuple(picture.split())
    turns = (Turn("user", f"<image>\n{question}"), Turn("assistant", answer))
    fields = {"domain": "shapes", "templated": False, **more}
    return Example(source, number, str(number), task, kind=kind, origin="human", images=images, turns=turns, **fields)


FIREWALL = {
    "folder": "benchmarks", "benchmarks": "all", "rule": "either", "picture_bits": 8, "picture_likeness": 0.9,
    "picture_patch": 24.0, "picture_tone": 255.0, "question_words": 4, "question_rows": 10, "question_runs": 6,
    "question_share": 0.5,
}  # fmt: skip

NO_CORESET = Coreset(
    method="none",
    rows=None,
    seed=17,
    concepts={"count": ["number"]},
    keywords="rules",
    keywords_per_dimension=1,
    endpoint=Endpoint(url=None, model=None, api_key_env="K", temperature=0.0, tries=1),
)


def params(
    *,
    held_out=0.0,
    balance=True,
    rows=100,
    rows_per_task=100,
    seed=17,
    tasks=None,
    domains=None,
    kinds=None,
    near=False,
    contamination=None,
    coreset=None,
):
    return Params(
        seed=seed,
        duplicates=Duplicates(near=near, distance=4),
        contamination=Contamination(**FIREWALL | (contamination or {})),
        connect=Connect(sources=["captions"], rows=rows),
        train=Train(
            sources=["tasks"],
            tasks=tasks,
            rows_per_task=rows_per_task,
            coreset=Coreset.model_validate({**NO_CORESET.model_dump(), **(coreset or {})}),
            quotas=Quotas(domains=domains, kinds=kinds),
        ),
        align=Align(sources=["chats"]),
        balance=balance,
        held_out=held_out,
    )


FILLERS = [row(10_000, source="captions"), row(20_000, source="chats")]


def curated(folder, rows, chosen, dose=100, cut=10**6, pictures=()):
    """The rows of each output, and what ended, of a run on `rows`, `cut` of them in a shard."""
    (folder / "validated").mkdir(parents=True)
    for first in range(0, len(rows), cut):
        example.write(folder / "validated" / "examples" / shards.name(first // cut), rows[first : first + cut])
    ledger.write(
        folder / "validated" / "ledger.parquet", [Line(one.source, one.row, one.id, one.task, ledger.ON) for one in rows]
    )
    with ImageWriter(folder / "ingested" / "tasks", shard_mib=1) as store:
        for content in pictures:
            store.add(content)
    (folder / "benchmarks").mkdir(exist_ok=True)
    curate(chosen, folder / "validated", folder / "ingested", folder / "benchmarks", str(dose), folder / "curated")
    outs = {name: example.read_all(folder / "curated" / name) for name in ("connect", "train", "align", "held_out")}
    lines = ledger.read(folder / "curated" / "ledger.parquet")
    # Whatever the run did: every row has one line, and lies where its state says, and nowhere else.
    assert [(line.source, line.row) for line in lines] == sorted((one.source, one.row) for one in rows)
    for state, names in ((ledger.ON, ("connect", "train", "align")), ("held_out", ("held_out",))):
        selected = [(one.source, one.row) for name in names for one in outs[name]]
        assert sorted(selected) == [(line.source, line.row) for line in lines if line.state == state]
    assert all(one in rows for name in outs for one in outs[name])
    return outs, {(line.source, line.row): (line.state, line.reason) for line in lines if line.state != ledger.ON}


def choices(folder):
    return json.loads((folder / "curated" / "choices.json").read_text())


def test_each_source_feeds_its_stage_and_a_source_nobody_names_is_unused(tmp_path):
    outs, dropped = curated(tmp_path, [row(0), *FILLERS, row(0, source="birds")], params())
    assert [len(outs[name]) for name in ("connect", "train", "align", "held_out")] == [1, 1, 1, 0]
    assert dropped == {("birds", 0): ("unused", "in_no_stage")}


def test_of_equal_rows_the_first_is_kept_and_named(tmp_path):
    rows = [row(0, picture="a"), row(1, picture="a"), row(2, picture="a", answer="blue"), row(3, picture="b")]
    _, dropped = curated(tmp_path, [*rows, *FILLERS], params())
    assert dropped == {("tasks", 1): ("duplicate", "exact: tasks:0")}


def test_of_equal_rows_in_two_sources_the_one_of_the_earlier_stage_is_kept(tmp_path):
    rows = [row(5, source=source, picture="a") for source in ("chats", "tasks", "captions")]
    _, dropped = curated(tmp_path, [*rows, *FILLERS, row(6)], params())
    assert dropped == {(source, 5): ("duplicate", "exact: captions:5") for source in ("chats", "tasks")}


def drawing(seed):
    """A picture that resembles no other: a few large blocks of random colours."""
    colours = np.frombuffer(random.Random(seed).randbytes(6 * 6 * 3), dtype=np.uint8).reshape(6, 6, 3)
    return Image.fromarray(colours).resize((96, 96), Image.Resampling.BICUBIC)


def saved(image, form="PNG", **more):
    buffer = io.BytesIO()
    image.save(buffer, form, **more)
    return buffer.getvalue()


def named(store):
    """The pictures' names, in the order given."""
    import hashlib

    return [hashlib.sha256(content).hexdigest() for content in store]


def test_a_row_that_reads_alike_behind_a_picture_that_shows_the_same_is_a_near_duplicate(tmp_path):
    store = [saved(drawing(1)), saved(drawing(1).resize((64, 64))), saved(drawing(1), "JPEG", quality=60), saved(drawing(2))]
    first, resized, again, other = named(store)
    rows = [
        row(0, picture=first, question="Is it red, or 3.5 blue?"),
        row(1, picture=resized, question="is it  RED or 3.5 blue"),
        row(2, picture=again, question="Is it red or 35 blue?"),
        row(3, picture=again, question="Is it red, or 3.5 blue?", answer="Blue."),
        row(4, picture=again, question="Is it red? Or 3.5 blue?", answer="Red!"),
        row(5, picture=other, question="Is it red, or 3.5 blue?"),
        row(6, source="chats", picture=first, question="Is it red; or 3.5 blue?"),
    ]
    _, dropped = curated(tmp_path / "near", [*rows, *FILLERS], params(near=True), pictures=store)
    states = {number: (state, reason.rpartition(" ")[0]) for (_, number), (state, reason) in dropped.items()}
    assert states == {number: ("duplicate", "near: tasks:0 (distance") for number in (1, 4, 6)}
    assert dropped["chats", 6][1] == "near: tasks:0 (distance 0)"

    assert curated(tmp_path / "off", [*rows, *FILLERS], params(near=False), pictures=store)[1] == {}


def test_pictures_that_show_the_same_lie_on_one_side_of_the_split(tmp_path):
    store = [saved(image) for number in range(12) for image in (drawing(number), drawing(number).resize((72, 72)))]
    names = named(store)
    rows = [row(number, picture=name, question=f"{number}?") for number, name in enumerate(names)]
    outs, _ = curated(tmp_path, [*rows, *FILLERS], params(near=True, held_out=0.3), pictures=store)
    held = {one.row // 2 for one in outs["held_out"]}
    assert 0 < len(held) < 12
    assert {one.row for one in outs["held_out"]} == {2 * number + k for number in held for k in (0, 1)}
    assert choices(tmp_path)["pictures"] == {"shown": 26, "held_out": 2 * len(held), "compared": 24}


def test_rows_that_are_added_bring_no_picture_back_from_the_test(tmp_path):
    store = [saved(drawing(number)) for number in range(20)]
    resized = [saved(drawing(number).resize((72, 72))) for number in range(20)]
    rows = [row(number, picture=name, question="What is it?") for number, name in enumerate(named(store))]
    # Of the stage before, so that every row of train's becomes a near duplicate of one that is learnt from.
    added = [row(number, source="captions", picture=name, question="what is it") for number, name in enumerate(named(resized))]
    held = {}
    for name, table in (("few", [*rows, *FILLERS]), ("more", [*rows, *added, *FILLERS])):
        outs, _ = curated(tmp_path / name, table, params(near=True, held_out=0.3), pictures=[*store, *resized])
        held[name] = {one.row for one in outs["held_out"]}
    assert 0 < len(held["few"]) < 20
    assert held["few"] == held["more"], "the twin stands in for the row it replaces"


def test_no_picture_is_in_two_splits_whatever_source_its_rows_are_of(tmp_path):
    rows = [row(number, picture=f"{number // 3}", question=f"{number}?") for number in range(300)]
    others = [row(number, source="chats", picture=f"{number}") for number in range(100)]
    outs, dropped = curated(tmp_path, [*rows, *others, *FILLERS], params(held_out=0.3, rows_per_task=1000), dose=1000)
    held = {picture for one in outs["held_out"] for picture in one.images}
    learned = {picture for name in ("connect", "train", "align") for one in outs[name] for picture in one.images}
    assert not held & learned
    assert {one.source for one in outs["held_out"]} == {"tasks", "chats"}
    assert 15 <= len(held) <= 45
    assert set(dropped.values()) == {("held_out", "picture_held_out")}
    assert len(outs["held_out"]) == len(dropped) == 4 * len(held)


def test_the_stage_itself_applies_balance_and_cap(tmp_path):
    answers = ["Yes"] * 9 + ["No"] * 5
    judged = [
        row(number, kind="judgement", task="check", question=f"{number}?", answer=one) for number, one in enumerate(answers)
    ]
    named = [row(100 + number, question=f"{number}?") for number in range(9)]

    _, dropped = curated(tmp_path, [*judged, *named, *FILLERS], params(balance=True, rows_per_task=6))

    reasons = sorted(reason for _, reason in dropped.values())
    assert reasons == ["more_yes_than_no"] * 4 + ["rows_per_task"] * (4 + 3)


def test_rows_of_fewer_tasks_are_a_part_of_those_of_more_and_the_test_stays_the_same(tmp_path):
    rows = [row(number, task=f"task-{number % 8}") for number in range(160)]
    learned, tested = {}, {}
    for tasks in (2, 5, None, 9):
        outs, dropped = curated(tmp_path / str(tasks), [*rows, *FILLERS], params(tasks=tasks, held_out=0.2))
        learned[tasks] = {one.row for one in outs["train"]}
        tested[tasks] = outs["held_out"]
        assert len({one.task for one in outs["train"]}) == min(tasks or 8, 8)
        ended = {end for end in dropped.values() if end[0] != "held_out"}
        assert ended == ({("over_cap", f"tasks: not among the {tasks} of 8 that were drawn")} if tasks in (2, 5) else set())
    assert learned[2] < learned[5] < learned[None] == learned[9]
    assert tested[2] == tested[5] == tested[None]
    assert choices(tmp_path / "9")["train"]["tasks"] == {"wanted": 9, "had": 8, "taken": 8}


def test_more_tasks_than_there_are_is_said(tmp_path, capsys):
    curated(tmp_path, [row(0), *FILLERS], params(tasks=2))
    assert capsys.readouterr().out == "curate.train.tasks wants 2 tasks; there are 1\n"


MIXED = [
    row(number, domain=domain, kind=kind, question=f"{number}?")
    for number, (domain, kind) in enumerate([("chart", "short")] * 40 + [("chart", "long")] * 20 + [("map", "long")] * 20)
]


def test_quotas_hold_for_domains_and_then_for_kinds(tmp_path, capsys):
    wanted = params(domains={"chart": 30, "map": 0.5}, kinds={"long": 12, "choice": 3})
    outs, dropped = curated(tmp_path, [*MIXED, *FILLERS], wanted)
    assert Counter(one.domain for one in outs["train"]) == {"chart": 20 + 6, "map": 6}
    assert Counter(one.kind for one in outs["train"]) == {"short": 20, "long": 12}
    assert Counter(dropped.values()) == {("over_cap", "quota_of_domains"): 40, ("over_cap", "quota_of_kinds"): 8}
    assert choices(tmp_path)["train"]["quotas"] == {
        "domains": {
            "chart": {"wanted": 30, "had": 60, "taken": 30, "left": 26},
            "map": {"wanted": 0.5, "had": 20, "taken": 10, "left": 6},
        },
        "kinds": {
            "choice": {"wanted": 3, "had": 0, "taken": 0, "left": 0},
            "long": {"wanted": 12, "had": 20, "taken": 12, "left": 12},
        },
    }
    assert capsys.readouterr().out == "curate.train.quotas.kinds.choice wants 3 rows; there are 0\n"


def test_a_smaller_quota_takes_a_part_of_a_larger_one(tmp_path):
    chosen = {}
    for quota in (0, 7, 0.3, 25, 1.0):
        outs, _ = curated(tmp_path / str(quota), [*MIXED, *FILLERS], params(domains={"chart": quota}))
        chosen[quota] = {one.row for one in outs["train"] if one.domain == "chart"}
    assert [len(chosen[quota]) for quota in (0, 7, 0.3, 25, 1.0)] == [0, 7, 18, 25, 60]
    assert chosen[7] < chosen[0.3] < chosen[25]


def test_a_quota_of_a_name_that_nobody_has_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"quotas\.domains names 'chat', .* they have 'chart', 'map'"):
        curated(tmp_path, [*MIXED, *FILLERS], params(domains={"chat": 3, "map": 1}))
    with pytest.raises(ValueError, match="no such kind of answer: longs; known: judgement, choice"):
        params(kinds={"longs": 3})


def test_what_a_benchmark_or_the_coreset_drops_is_listed_and_in_no_selection(tmp_path, monkeypatch):
    named = pl.DataFrame(
        {"source": ["tasks", "chats", "birds"], "row": [3, 20_000, 1], "reason": ["pope: item 7", "mme: item 1", "?"]}
    )

    def dropping(chosen, *_):
        chosen.end_named(named, "contaminated")
        return pl.DataFrame(schema=LINES)

    monkeypatch.setattr(stage, "drop_contaminated", dropping)
    monkeypatch.setattr(
        stage, "drop_outside_coreset", lambda chosen, *_: chosen.end_named(named.with_columns(row=4), "not_in_coreset")
    )
    rows = [row(number, picture=f"{number % 3}", question=f"{number}?") for number in range(12)]
    outs, dropped = curated(tmp_path, [*rows, *FILLERS, row(21_000, source="chats")], params(held_out=0.99))
    assert {key: end for key, end in dropped.items() if end[0] == "contaminated"} == {
        ("tasks", 3): ("contaminated", "pope: item 7"),
        ("chats", 20_000): ("contaminated", "mme: item 1"),
    }
    assert dropped["tasks", 4] == ("held_out", "picture_held_out"), "it was decided on before the coreset"
    assert 3 not in {one.row for name in outs for one in outs[name]}


def test_a_row_with_a_benchmarks_picture_or_question_is_neither_learnt_from_nor_tested_with_and_all_it_holds_is_listed(
    tmp_path,
):
    """Whatever the split: here nearly every picture would be held out."""
    pictures = [saved(drawing(seed)) for seed in range(3)]
    asked = "Which of the two lanterns beside the old mill went out before the storm began?"
    own = tmp_path / "benchmarks" / "own"
    own.mkdir(parents=True)
    drawing(1).resize((100, 80)).save(own / "seen.jpg")
    (own / "asked.json").write_text(
        json.dumps([{"id": 4, "question": asked}, {"id": 5, "question": "Who?", "image": "seen.jpg"}])
    )
    shown = named(pictures)
    rows = [row(number, picture=shown[number]) for number in range(3)]
    rows += [row(3, picture=shown[0], question=f"Look. {asked}"), *FILLERS]

    outs, dropped = curated(tmp_path, rows, params(held_out=0.9), pictures=pictures)

    assert {key: end for key, end in dropped.items() if end[0] == "contaminated"} == {
        ("tasks", 1): ("contaminated", "own: item 5, its picture, 2 bits away"),
        ("tasks", 3): ("contaminated", "own: item 4, its question, 100 % of it"),
    }
    assert {one.row for name in outs for one in outs[name]} == {0, 2, 10_000, 20_000}
    listed = pl.read_parquet(tmp_path / "curated" / "contaminated.parquet")
    assert listed.select("row", "benchmark", "item", "by").rows() == [(1, "own", "5", "picture"), (3, "own", "4", "question")]
    assert choices(tmp_path)["contaminated"] == {"rows": 2, "picture": 1, "question": 1, "benchmarks": {"own": 2}}


def test_a_smaller_dose_is_a_part_of_a_larger_one(tmp_path):
    rows = [
        row(number, source="chats", kind=kind)
        for number, kind in enumerate(["conversation"] * 100 + ["reasoning"] * 50 + ["description"] * 50)
    ]
    outs = {}
    for dose in (20, 60):
        out, dropped = curated(tmp_path / str(dose), [row(999), FILLERS[0], *rows], params(), dose)
        outs[dose] = {one.row for one in out["align"]}
        assert len(outs[dose]) == dose
        assert Counter(one.kind for one in out["align"]) == {
            "conversation": dose / 2, "reasoning": dose / 4, "description": dose / 4
        }  # fmt: skip
        assert set(dropped.values()) == {("not_in_dose", "dose")}
    assert outs[20] < outs[60]


def test_connect_takes_at_most_its_rows_and_fewer_are_a_part_of_more(tmp_path):
    rows = [row(number, source="captions", kind="caption") for number in range(30)]
    chosen = {}
    for most in (5, 10):
        out, dropped = curated(tmp_path / str(most), [row(999), FILLERS[1], *rows], params(rows=most))
        chosen[most] = {one.row for one in out["connect"]}
        assert set(dropped.values()) == {("over_cap", "connect_rows")}
    assert len(chosen[5]) == 5
    assert chosen[5] < chosen[10]


SHOWN = [saved(drawing(number)) for number in range(6)]
PICTURES = st.sampled_from(named(SHOWN))


def with_benchmark(folder):
    """`folder`, where a benchmark shows one of the pictures that rows of `tables` have, and asks one of their questions."""
    own = folder / "benchmarks" / "own"
    own.mkdir(parents=True)
    drawing(3).resize((80, 80)).save(own / "seen.png")
    (own / "asked.json").write_text(json.dumps([{"id": 4, "question": "Is it 2?"}]))
    return folder


@st.composite
def tables(draw):
    """Rows of few pictures, tasks, texts and sources, so that everything that can happen to a row happens."""
    few = st.integers(0, 3)
    made = []
    for number in range(draw(st.integers(1, 40))):
        judged = draw(st.booleans())
        made.append(
            row(
                number,
                source=draw(st.sampled_from(["tasks", "tasks", "captions", "chats", "birds"])),
                picture=" ".join(draw(PICTURES) for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2])))),
                task=f"task-{draw(few)}",
                kind="judgement" if judged else draw(st.sampled_from(["short", "long"])),
                domain=f"domain-{draw(few)}",
                question=f"Is it {draw(few)}?",
                answer=draw(st.sampled_from(["Yes", "no."])) if judged else "red",
                templated=draw(st.booleans()),
            )
        )
    return [*made, row(900), *FILLERS]


@st.composite
def wishes(draw):
    number = st.integers(1, 6)
    return params(
        held_out=draw(st.sampled_from([0.0, 0.2, 0.6])),
        balance=draw(st.booleans()),
        rows=draw(number),
        rows_per_task=draw(number),
        seed=draw(st.integers(0, 3)),
        tasks=draw(st.none() | number),
        kinds=draw(st.none() | st.dictionaries(st.sampled_from(["short", "judgement"]), number | st.floats(0, 1))),
        near=draw(st.booleans()),
        contamination={
            "rule": draw(st.sampled_from(["either", "picture", "question"])),
            "question_words": 3,
            "question_rows": draw(st.integers(1, 12)),
            "question_runs": 1,
        },
        coreset={
            "method": draw(st.sampled_from(["none", "random", "diverse", "balanced", "both"])),
            "rows": draw(st.integers(1, 4)),
            "concepts": {"numbers": ["1", "2"], "answers": ["yes", "red"]},
        },
    )


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=tables(), chosen=wishes(), dose=st.integers(1, 5))
def test_every_row_ends_in_one_state_that_hangs_on_no_shard(tmp_path_factory, rows, chosen, dose):
    whole, cut = (with_benchmark(tmp_path_factory.mktemp(name)) for name in ("whole", "cut"))
    outs, dropped = curated(whole, rows, chosen, dose, pictures=SHOWN)
    # `curated` has seen to it that each row has one line and lies where that says.
    states = Counter(state for state, _ in dropped.values())
    assert sum(states.values()) + sum(len(outs[name]) for name in ("connect", "train", "align")) == len(rows)
    held = {picture for one in outs["held_out"] for picture in one.images}
    assert not held & {picture for name in ("connect", "train", "align") for one in outs[name] for picture in one.images}

    assert curated(cut, rows, chosen, dose, cut=-(-len(rows) // 4), pictures=SHOWN) == (outs, dropped)
    for name in ("ledger.parquet", "contaminated.parquet", "choices.json"):
        assert (whole / "curated" / name).read_bytes() == (cut / "curated" / name).read_bytes()


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


JUDGED = [row(number, kind="judgement", answer="Yes" if number % 3 else "No", picture=f"{number // 2}") for number in range(60)]


def bytes_of(folder):
    """What a run in `folder` writes of sixty rows."""
    curated(folder, [*JUDGED, *FILLERS], params(held_out=0.2, rows_per_task=10), cut=20)
    return files(folder / "curated")


def test_the_same_rows_give_the_same_bytes_from_what_was_kept(tmp_path):
    first = bytes_of(tmp_path / "first")
    assert bytes_of(tmp_path / "second") == first
    (tmp_path / ".work").rename(tmp_path / "forgotten")
    assert bytes_of(tmp_path / "third") == first
    assert {path.name for path in first} >= {"00000.parquet", "00002.parquet", "ledger.parquet", "choices.json"}


@pytest.mark.slow
def test_several_processes_write_the_bytes_of_one(tmp_path):
    first = bytes_of(tmp_path / "first")
    (tmp_path / ".work").rename(tmp_path / "forgotten")
    two, before = compute.Compute(engine="local", address=None, processes=2), compute.used()
    compute.use(two)
    try:
        assert bytes_of(tmp_path / "second") == first
    finally:
        compute.use(before)


def test_only_the_shards_that_are_new_are_looked_at_again(tmp_path, monkeypatch):
    looked = []
    look = stage.looking
    monkeypatch.setattr(
        stage, "looking", lambda *given: lambda rows: (looked.append(rows["row"].to_pylist()), look(*given)(rows))[1]
    )
    rows = [row(number) for number in range(10)]
    curated(tmp_path / "few", [*FILLERS, *rows], params(), cut=4)
    assert [len(shard) for shard in looked] == [4, 4, 4]
    looked.clear()
    curated(tmp_path / "more", [*FILLERS, *rows, row(10)], params(), cut=4)
    assert looked == [[10]]


def test_no_row_ends_twice(tmp_path):
    curated(tmp_path, [row(0), *FILLERS], params())
    marks = stage.read_marks(params(), [], [])
    assert len(marks) == 0
    choice = Choice(marks)
    choice.end(np.zeros(0, dtype=np.int64), "unused", "in_no_stage")
    assert choice.of(["tasks"]).tolist() == []


def test_a_source_that_was_not_ingested_is_an_error_that_lists_those_that_were(tmp_path):
    with pytest.raises(ValueError, match=r"curate\.align\.sources names 'chats', .* there are captions, tasks"):
        curated(tmp_path, [row(0), FILLERS[0]], params())


def test_a_source_in_two_stages_is_an_error():
    with pytest.raises(ValueError, match=r"align.sources and train.sources both name 'tasks'"):
        Params.model_validate({**params().model_dump(), "align": {"sources": ["tasks"]}})


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("held_out", 8.0),
        ("align", {"sources": ["chats"], "dose": 1}),
        ("duplicates", {"near": True, "distance": 40}),
        ("train", {**params().train.model_dump(), "tasks": 0}),
        ("train", {**params().train.model_dump(), "quotas": {"domains": {"a": 1.5}, "kinds": None}}),
        ("train", {**params().train.model_dump(), "quotas": {"domains": {"a": -1}, "kinds": None}}),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(section, value):
    with pytest.raises(ValueError, match=section):
        Params.model_validate({**params().model_dump(), section: value})


@pytest.mark.parametrize("dose", [-3, 0, 1.5])
def test_a_dose_that_align_cannot_learn_from_is_refused_with_its_key(tmp_path, dose):
    with pytest.raises(ValueError, match=rf"align\.dose must be a whole number of rows, at least 1, got '{dose}'"):
        curated(tmp_path, [row(0), *FILLERS], params(), dose=dose)
