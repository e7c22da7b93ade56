import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stages.corpus import example, judging, ledger
from stages.corpus.example import Example, Turn
from stages.corpus.images import ImageWriter
from stages.running import compute
from stages.running.section import read_params
from stages.validate import OF_ROWS, OF_TASKS, Params, contract, validate

GIVEN = read_params(Path(__file__).parents[2] / "params.yaml")["validate"]
"""The section as it stands in params.yaml: each test changes of it what it is about."""


def params(**changed):
    return Params.model_validate({**GIVEN, "max_side": 100, "max_answer_words": 20, "max_quarantined": 1.0, **changed})


ABOUT = {"a": {"licence": "MIT", "language": "en"}, "closed": {"licence": "no", "language": "en"}, "far": {"licence": "MIT"}}
PARAMS = params()
STRICT = params(max_answer_characters=300, max_question_characters=200, max_pictures=3, licences=["MIT"], languages=["en"])


def picture(size=(32, 32), format="PNG", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


GOOD = picture()
CUT = picture(format="JPEG")[:400]


def row(number=0, *texts, images=(GOOD,), roles="uaua", source="a", **change):
    """An example that holds to the contract but for `change`, and the bytes of its pictures."""
    texts = texts or ("<image>\nWhat is it?", "a square")
    names = {"u": "user", "a": "assistant"}
    turns = tuple(Turn(names.get(role, role), text) for role, text in zip(roles, texts, strict=False))
    fields = {"id": str(number), "task": "shapes", "kind": "short", "origin": "human", "templated": False, **change}
    return Example(source, number, domain="shapes", images=(), turns=turns, **fields), images


def ingested(folder, rows, about=ABOUT):
    for source in sorted({one.source for one, _ in rows}):
        with ImageWriter(folder / source, 1) as store:
            examples = []
            for one, contents in rows:
                if one.source == source:
                    fields = {name: getattr(one, name) for name in Example.__slots__}
                    examples.append(Example(**{**fields, "images": tuple(store.add(content) for content in contents)}))
        example.write(folder / source / "examples" / "00000.parquet", examples)
        if source in about:
            (folder / source / "source.json").write_text(json.dumps(about[source]))
    return folder


def validated(folder, rows, params=PARAMS):
    """What became of each row: "" if it passed, else the expectation it is quarantined under."""
    (folder / "accepted").mkdir(parents=True, exist_ok=True)
    validate(params, ingested(folder / "ingest", rows), folder / "accepted", folder / "validate")
    lines = ledger.read(folder / "validate" / "ledger.parquet")
    kept = {(one.source, one.row) for one in example.read_all(folder / "validate" / "examples")}
    quarantined = pq.read_table(folder / "validate" / "quarantine.parquet").to_pylist()
    assert {(line.source, line.row) for line in lines if line.state == ledger.ON} == kept
    assert {(one["source"], one["row"]): one["expectation"] for one in quarantined} == {
        (line.source, line.row): line.reason for line in lines if line.state == "quarantined"
    }
    return [line.reason for line in lines]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """What was judged before is kept below the folder that a run stands in."""
    monkeypatch.chdir(tmp_path)


BROKEN = {
    "licence_allowed": [row(source="closed")],
    "language_allowed": [row(source="far")],
    "task_is_named": [row(task="")],
    "kind_is_known": [row(kind="limerick"), row(kind="")],
    "origin_is_known": [row(origin="martian")],
    "roles_are_known": [row(0, "Be kind.", "<image>\nHi", "Ho", roles=["system", "u", "a"])],
    "user_speaks_first": [row(0, "Ho", "<image>\nHi", "Ho", roles="aua"), row(0, "<image>", roles="a")],
    "roles_alternate": [row(0, "<image>\nHi", "Hi?", "Ho", roles="uua"), row(0, "<image>\nHi", "Ho", "Ho", roles="uaa")],
    "assistant_speaks_last": [row(0, "<image>\nHi", "Ho", "And?"), row(0, "<image>\nHi")],
    "answers_not_empty": [
        row(0, "<image>\nHi", ""), row(0, "<image>\nHi", " \n\t\u3000\u200b"), row(0, "<image>\nHi", "Ho", "And?", ""),
    ],
    "questions_not_empty": [row(0, "<image>\n", "a square"), row(0, "<image>\nHi", "Ho", "", "Ho", templated=True)],
    "answers_say_something": [
        row(0, "<image>\nHi", "The message is empty."), row(0, "<image>\nHi", "Ho", "And?", " 'message is EMPTY' "),
    ],
    "answers_not_too_long": [row(0, "<image>\nHi", "word " * 21)],
    "answers_within_characters": [row(0, "<image>\nHi", "w" * 301), row(0, "<image>\nHi", "語" * 301)],
    "questions_within_characters": [row(0, "<image>\nHi" + "i" * 200, "Ho")],
    "text_has_no_control_characters": [
        row(0, "<image>\nHi\0", "Ho"), row(0, "<image>\nHi", "H\x1bo"), row(0, "<image>\nHi\x9f", "Ho"),
    ],
    "text_has_no_special_tokens": [
        row(0, "<image>\nHi</s>", "Ho"), row(0, "<image>\nHi", "<s>Ho"), row(0, "<image>\nHi<|im_end|>", "Ho"),
        row(0, "<image>\n<|endoftext|>Hi", "Ho"), row(0, "<image>\n[INST] Hi", "Ho"), row(0, "<image>\nHi <unk>", "Ho"),
    ],
    "one_mark_per_picture": [
        row(0, "Hi", "Ho"), row(0, "<image>\n<image>\nHi", "Ho"), row(0, "<image>\nHi", "Ho", images=()),
        row(0, "<image>\nWhat does <image> mean?", "Ho"), row(0, "<image>\nHi", "Ho", images=(GOOD, picture(seed=1))),
    ],
    "no_mark_in_answers": [row(0, "<image>\nHi", "Ho <image>")],
    "not_too_many_pictures": [row(0, "<image>" * 4 + "Hi", "Ho", images=[picture(seed=seed) for seed in range(4)])],
    "picture_decodes_whole": [row(images=(CUT,)), row(images=(b"<html>gone</html>",)), row(images=(GOOD[:-40],))],
    "picture_not_too_small": [row(images=(picture((32, 15)),))],
    "picture_not_too_large": [row(images=(picture((101, 32)),))],
    "judgement_is_yes_or_no": [
        row(0, "<image>\nIs it?", "Maybe", kind="judgement"), row(0, "<image>\nIs it?", "Yesterday", kind="judgement"),
        row(0, "<image>\n是吗?", "不知道", kind="judgement"), row(0, "<image>\n是吗?", "图中是猫", kind="judgement"),
    ],
    "choice_is_an_option": [
        row(0, "<image>\nWhich?\nOptions: (a) red (b) blue", "(c) green", kind="choice"),
        row(0, "<image>\nWhich?\nOptions: (a) red (b) blue", "D", kind="choice"),
        row(0, "<image>\nWhich?\nA. red\nB. blue", "C", kind="choice"),
        row(0, "<image>\nWhich?\nA. red\nB. blue", "C. green", kind="choice"),
    ],
    "boxes_within_picture": [
        row(0, "<image>\nWhere?", "[0.1, 0.2, 1.3, 0.4]", kind="referring"),
        row(0, "<image>\nWhere?", "[0.5, 0.2, 0.3, 0.4]", kind="referring"),
        row(0, "<image>\nWhat is at [12, 30]?", "a cat", kind="referring"),
        row(0, "<image>\nWhat is at [nan, 0, 1, 1]?", "a cat", kind="referring"),
    ],
    "id_is_its_own": [row(0, id="last"), row(0, id="last")],
}  # fmt: skip

WHOLE = [
    row(),
    row(0, "What is it?\n<image>", "a square"),
    row(0, "<image>", "a square", templated=True),
    row(0, "Hello?", "Hi.", images=()),
    row(0, "<image>\n<image>\nSame?", "Yes", images=(GOOD, picture(seed=1)), kind="judgement"),
    row(0, "<image>\nHi", "Ho", "And?", "Well.", kind="conversation"),
    row(0, "<image>\nIs it?", "Yes, it is.", kind="judgement"),
    row(0, "<image>\n是吗?", "是的，图中有猫。", kind="judgement"),
    row(0, "<image>\n是吗?", "没有", kind="judgement"),
    row(0, "<image>\nHi", "w" * 300),
    row(0, "<image>\nHi", "The sign says: the message is empty."),
    row(0, "<image>\nWhich?\nOptions: (a) red (b) blue", "(a) Red.", kind="choice"),
    row(0, "<image>\nWhich of the two?", "the left one", kind="choice"),
    row(0, "<image>\nWhich?\nA. red\nB. blue", "B", kind="choice"),
    row(0, "<image>\nWhich?\n(a) red (b) blue", "A.", kind="choice"),
    row(0, "<image>\nWhich?\nOptions: A. red B. dark blue", "B. dark blue", kind="choice"),
    row(0, "<image>\nWhere?", "[0.100, 0.200, 0.300, 0.400], [0, 0, 1, 1]", kind="referring"),
    row(0, "<image>\nWhere?", "In the middle [or nearly so].", kind="referring"),
    row(0, "<image>\nHi\tthere\r\n<b>", "Größe, 日本, 👩‍👩‍👧 and a < b > c"),
    row(0, "<image>\nHi", "word " * 20),
    row(images=(picture((16, 100)),)),
    row(images=(picture(format="JPEG"),)),
]


def test_a_row_is_quarantined_under_the_expectation_it_breaks_and_all_others_pass(tmp_path):
    wanted = {}
    rows = []
    for name, of in [(name, one) for name, ones in BROKEN.items() for one in ones] + [("", one) for one in WHOLE]:
        one, contents = of
        fields = {field: getattr(one, field) for field in Example.__slots__}
        fields["row"] = len(rows)
        fields["id"] = "same" if one.id == "last" else str(len(rows))
        rows.append((Example(**fields), contents))
        wanted[one.source, len(rows) - 1] = name
    # Nobody can say of the first of two rows that its id was there before.
    wanted[next(key for key, name in wanted.items() if name == "id_is_its_own")] = ""
    assert list(BROKEN) == list(contract(STRICT)) == list(OF_ROWS), (
        "every expectation has rows that break it, and is tried here"
    )
    strict = STRICT.model_copy(update={"severity": {**PARAMS.severity, "id_is_its_own": "quarantine"}})
    assert validated(tmp_path, rows, strict) == [wanted[key] for key in sorted(wanted)]


def test_of_several_broken_expectations_the_first_is_the_reason_and_all_are_kept(tmp_path):
    assert validated(tmp_path, [row(0, "<image>\nHi</s>", "", kind="limerick"), row(1)]) == ["kind_is_known", ""]
    quarantined = pq.read_table(tmp_path / "validate" / "quarantine.parquet").to_pylist()
    assert quarantined[0]["broken"] == ["kind_is_known", "answers_not_empty", "text_has_no_special_tokens"]
    assert example.read(tmp_path / "validate" / "quarantine.parquet")[0].kind == "limerick"


def test_a_picture_over_the_limit_is_refused_by_its_size(tmp_path):
    assert validated(tmp_path, [row(images=(picture((101, 101)),))]) == ["picture_not_too_large"]


def test_a_source_that_is_broken_in_large_part_stops_the_run_and_says_where_to_look(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        row(0, source="good"),
        row(0, source="bad"),
        row(1, "<image>\nHi", "", source="bad"),
        row(2, kind="x", source="bad"),
    ]
    with pytest.raises(ValueError, match=r"2 of 3 rows of source 'bad' \(66\.7%\) break the data contract") as stopped:
        validated(tmp_path, rows, PARAMS.model_copy(update={"max_quarantined": 0.5}))
    message = str(stopped.value)
    assert "more than the 50.0% allowed: answers_not_empty (1), kind_is_known (1)" in message
    assert "validate.max_quarantined" in message
    assert "'good'" not in message
    assert not (tmp_path / "validate").exists()
    assert "answers_not_empty" in (tmp_path / ".work" / "validate" / "contract.html").read_text()


def test_a_share_exactly_at_the_limit_goes_on(tmp_path):
    half = PARAMS.model_copy(update={"max_quarantined": 0.5})
    assert validated(tmp_path, [row(0), row(1, kind="limerick")], half) == ["", "kind_is_known"]


def test_no_rows_at_all_is_an_error(tmp_path):
    for name in ("ingest", "accepted"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=r"no source in .* has a row that could be read"):
        validate(PARAMS, tmp_path / "ingest", tmp_path / "accepted", tmp_path / "validate")


NASTY = "<image>\n<script>alert('x')</script><img src=x onerror=alert(1)> $5 ${name} {{ 7 * 7 }} $PARAMETER %s </s>"


def test_pages_show_broken_rows_as_text_and_ask_nothing_of_any_machine(tmp_path):
    rows = [row(0, NASTY, "Ho", kind="<b>bold</b> $PARAMETER"), row(1, "<image>\nHi\0", "Ho", images=(CUT,)), row(2)]
    assert validated(tmp_path, rows) == ["kind_is_known", "text_has_no_control_characters", ""]
    ours = (tmp_path / "validate" / "contract.html").read_text()
    docs = (tmp_path / "validate" / "docs" / "index.html").read_text()
    for html in (ours, docs):
        assert "<script>alert" not in html
        assert "<img src=x" not in html
        assert "<b>bold" not in html
        assert "Content-Security-Policy" in html
        assert 'src="http' not in html
        assert '<link rel="stylesheet"' not in html
        assert "one &lt;image&gt; for each picture" in html
    assert "Hi\\x00" in ours
    assert ours.count('src="data:image/') == 2, "of the row with a whole picture, once under each of the two it breaks"
    assert "picture_decodes_whole" in ours


def test_the_same_rows_give_the_same_bytes(tmp_path, monkeypatch):
    rows = [row(0), row(1, kind="limerick"), row(2, images=(CUT,)), row(3, "<image>\nHi</s>", "Ho")]
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        validated(tmp_path / name, rows)
    files = [path for path in sorted((tmp_path / "first" / "validate").rglob("*")) if path.is_file()]
    assert len(files) == 9
    for path in files:
        assert path.read_bytes() == (tmp_path / "second" / path.relative_to(tmp_path / "first")).read_bytes(), path.name


@pytest.mark.slow
def test_the_same_bytes_come_from_two_processes(tmp_path, monkeypatch):
    rows = [row(0), row(1, kind="limerick"), row(0, source="b"), row(1, images=(CUT,), source="c")]
    validated(tmp_path / "one", rows)
    monkeypatch.chdir(tmp_path / "one")  # where nothing was kept
    monkeypatch.setattr(judging, "FEW", 0)
    monkeypatch.setattr(compute, "_used", compute.Compute(engine="local", address=None, processes=2))
    validated(tmp_path / "two", rows)
    for path in sorted((tmp_path / "one" / "validate").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes(), path.name


def severe(name, severity, **changed):
    return params(severity={**GIVEN["severity"], name: severity}, **changed)


def test_a_warning_is_counted_and_its_row_goes_on(tmp_path):
    rows = [row(0), row(1, "<image>\nHi", "word " * 21), row(2, "<image>\nHi", "word " * 21, kind="limerick")]
    warned = severe("answers_not_too_long", "warn")
    assert validated(tmp_path, rows, warned) == ["", "", "kind_is_known"]
    warnings = pq.read_table(tmp_path / "validate" / "warnings.parquet").to_pylist()
    assert warnings == [{"source": "a", "row": 1, "id": "1", "task": "shapes", "expectation": "answers_not_too_long"}]
    quarantined = pq.read_table(tmp_path / "validate" / "quarantine.parquet").to_pylist()
    assert quarantined[0]["broken"] == ["kind_is_known", "answers_not_too_long"], "what else is wrong with it is kept"
    html = (tmp_path / "validate" / "contract.html").read_text()
    assert '<section id="answers_not_too_long"' in html, "rows that only warn are shown too"


def test_a_warning_is_no_reason_to_stop(tmp_path):
    rows = [row(number, "<image>\nHi", "word " * 21) for number in range(3)]
    assert validated(tmp_path, rows, severe("answers_not_too_long", "warn", max_quarantined=0.0)) == [""] * 3


def test_one_row_that_breaks_what_stops_a_run_stops_it_and_the_page_says_so(tmp_path):
    rows = [row(number) for number in range(30)] + [row(30, "<image>\nHi</s>", "Ho")]
    with pytest.raises(ValueError, match="1 row breaks text_has_no_special_tokens, which stops a run: 1 of 'a'"):
        validated(tmp_path, rows, severe("text_has_no_special_tokens", "stop"))
    assert not (tmp_path / "validate").exists()
    html = (tmp_path / ".work" / "validate" / "contract.html").read_text()
    assert "The run stopped here" in html
    assert "1 row breaks text_has_no_special_tokens" in html
    assert "Hi&lt;/s&gt;" in html
    assert validated(tmp_path / "sound", rows[:30], severe("text_has_no_special_tokens", "stop")) == [""] * 30
    assert "The run stopped" not in (tmp_path / "sound" / "validate" / "contract.html").read_text()


@pytest.mark.parametrize(
    ("severity", "fault"),
    [
        (
            {**GIVEN["severity"], "rows_are_nice": "warn"},
            "names what is no expectation: rows_are_nice; known are licence_allowed,",
        ),
        ({"task_is_named": "warn"}, "lacks licence_allowed, language_allowed, kind_is_known,"),
        ({**GIVEN["severity"], "task_has_rows": "quarantine"}, "task_has_rows: of a whole task there is only stop and warn"),
        ({**GIVEN["severity"], "task_has_rows": "ignore"}, "'stop', 'quarantine' or 'warn'"),
    ],
)
def test_every_expectation_has_a_severity_and_nothing_else_has_one(severity, fault):
    with pytest.raises(ValueError, match=fault):
        params(severity=severity)
    assert {*OF_ROWS, *OF_TASKS} == GIVEN["severity"].keys()


def test_a_span_that_nothing_could_hold_to_is_refused():
    with pytest.raises(ValueError, match=r"least \(3\.0\) is over most \(2\.0\)"):
        params(tasks={**GIVEN["tasks"], "median_answer_words": {"least": 3.0, "most": 2.0}})


def test_rows_that_could_not_be_read_count_against_the_source(tmp_path):
    rows = [row(number) for number in range(3)]
    lost = [ledger.Line("a", 3 + number, "", "", "unreadable", f"missing_image: {number}.jpg") for number in range(2)]
    lines = [ledger.Line("a", number, "", "", ledger.ON) for number in range(3)]
    ingested(tmp_path / "ingest", rows)
    ledger.write(tmp_path / "ingest" / "a" / "ledger.parquet", lines + lost)
    with pytest.raises(ValueError, match=r"2 of 5 rows of source 'a' \(40\.0%\) could not be read or .*: missing_image \(2\)"):
        validated(tmp_path, rows, params(max_quarantined=0.39))
    assert validated(tmp_path, rows, params(max_quarantined=0.4)) == [""] * 3
    assert "missing_image" not in (tmp_path / "validate" / "contract.html").read_text()


def test_what_a_person_left_out_does_not_count_against_the_source(tmp_path):
    rows = [row(0), row(1), row(0, source="closed"), row(1, kind="x", source="closed"), row(0, source="bare")]
    chosen = params(licences=["MIT"], max_quarantined=0.0)
    assert validated(tmp_path, rows, chosen) == ["", "", "licence_allowed", "licence_allowed", "licence_allowed"]
    bare = params(licences=["MIT", "undeclared"], max_quarantined=0.0)
    assert validated(tmp_path / "again", rows, bare) == ["", "", "", "licence_allowed", "licence_allowed"]
    html = (tmp_path / "validate" / "contract.html").read_text()
    assert "undeclared" in html
    assert "<td>no</td>" in html, "what each source declares is shown"


def test_what_is_out_of_its_span_in_a_task_is_a_warning_of_the_task(tmp_path):
    rows = [row(number, "<image>\nIs it?", "Yes", kind="judgement", task="always") for number in range(4)] + [row(4)]
    limits = {**GIVEN["tasks"], "min_rows": 2, "yes_share_rows": 4}
    assert validated(tmp_path, rows, params(tasks=limits)) == [""] * 5
    table = pq.read_table(tmp_path / "validate" / "tasks.parquet").to_pylist()
    assert {one["task"]: one["broken"] for one in table} == {"always": ["yes_share_in_span"], "shapes": ["task_has_rows"]}
    with pytest.raises(ValueError, match="1 task breaks yes_share_in_span, which stops a run: 'always' of 'a' is one"):
        validated(tmp_path / "again", rows, severe("yes_share_in_span", "stop", tasks=limits))


def test_a_corpus_is_compared_with_the_accepted_one(tmp_path, capsys):
    rows = [row(number, task="counting" if number % 2 else "reading") for number in range(20)]
    limits = dict.fromkeys(("task_mix", "kind_mix", "answer_words", "picture_sides"), 0.01)
    against = params(drift={"accepted": "june", "limits": limits})
    validated(tmp_path, rows)
    accepted = (tmp_path / "validate" / "summary.json").read_text()
    for folder, given in ((tmp_path / "same", rows), (tmp_path / "other", rows[:11] + rows[12::2])):
        (folder / "accepted").mkdir(parents=True)
        (folder / "accepted" / "june.json").write_text(accepted)
        assert validated(folder, given, against) == [""] * len(given)
    told = {
        name: json.loads((tmp_path / name / "validate" / "summary.json").read_text())["drift"] for name in ("same", "other")
    }
    assert told["same"] == dict.fromkeys(limits, 0)
    assert told["other"]["task_mix"] > 0.01
    assert "task_mix is 0.0" in capsys.readouterr().err
    assert "drifted" in (tmp_path / "other" / "validate" / "contract.html").read_text()


def test_only_what_is_new_is_judged_again(tmp_path, monkeypatch):
    judged = []
    work = judging.Judge.__call__
    monkeypatch.setattr(judging.Judge, "__call__", lambda self, piece: judged.append(1) or work(self, piece))
    rows = [row(0), row(1, kind="limerick"), row(0, source="b")]
    assert validated(tmp_path, rows) == ["", "kind_is_known", ""]
    ingest, out = tmp_path / "ingest", tmp_path / "validate"
    assert len(judged) == 2

    first = example.read(ingest / "a" / "examples" / "00000.parquet")[0]
    example.write(ingest / "a" / "examples" / "00001.parquet", [replace(first, row=2)])
    shutil.rmtree(out)
    validate(PARAMS, ingest, tmp_path / "accepted", out)
    assert len(judged) == 3, "a shard was added beside two"
    assert [line.reason for line in ledger.read(out / "ledger.parquet")] == ["", "kind_is_known", "", ""]
    assert [one["row"] for one in pq.read_table(out / "warnings.parquet").to_pylist()] == [2], "its id was in an earlier shard"

    validate(params(max_answer_words=19), ingest, tmp_path / "accepted", tmp_path / "other")
    assert len(judged) == 6, "another contract is another verdict"


def test_a_language_of_the_row_goes_before_that_of_the_source(tmp_path):
    ingested(tmp_path / "ingest", [row(0), row(1), row(2)])
    path = tmp_path / "ingest" / "a" / "examples" / "00000.parquet"
    table = pq.read_table(path)
    if "language" in table.column_names:
        table = table.drop_columns("language")
    pq.write_table(table.append_column("language", pa.array(["zh", "en", ""])), path)
    (tmp_path / "accepted").mkdir()
    validate(params(languages=["en"]), tmp_path / "ingest", tmp_path / "accepted", tmp_path / "validate")
    reasons = [line.reason for line in ledger.read(tmp_path / "validate" / "ledger.parquet")]
    assert reasons == ["language_allowed", "", ""]


def test_what_is_known_of_its_pictures_is_a_part_of_what_a_shard_is_judged_by(tmp_path):
    assert validated(tmp_path, [row(0)]) == [""]
    store = tmp_path / "ingest" / "a" / "images" / "00000.parquet"
    table = pq.read_table(store)
    cut = pa.array([False] * len(table))
    pq.write_table(table.set_column(table.column_names.index("whole"), "whole", cut), store)
    validate(PARAMS, tmp_path / "ingest", tmp_path / "accepted", tmp_path / "again")
    assert [line.reason for line in ledger.read(tmp_path / "again" / "ledger.parquet")] == ["picture_decodes_whole"]
