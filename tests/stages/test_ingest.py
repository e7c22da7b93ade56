import base64
import json
import tracemalloc
import zipfile

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.corpus import example, ledger
from stages.corpus.pictures import read_images
from stages.formats import hub as of_the_hub
from stages.formats import reading
from stages.ingest import Hub, Params, Source, ingest


def talk(image, question="<image>\nWhat is it?", answer="a square"):
    return {
        "id": "x",
        "image": image,
        "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}],
    }


def params(**change):
    about = {
        "format": "llava", "folder": "unused", "annotations": "rows.json", "instructions": None, "images": "images",
        "origin": "human", "hub": None, "licence": None, "language": None, "exclude": None,
    }  # fmt: skip
    return Params(sources={"pets": Source(**{**about, **change})}, shard_rows=1000, shard_mib=1)


def ingested(folder, rows, **change):
    """Examples, ledger lines and pictures of `rows`, read from `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "rows.json").write_text(json.dumps(rows))
    out = folder / "ingested"
    ingest(params(**change), "pets", folder, out)
    return example.read_all(out / "examples"), ledger.read(out / "ledger.parquet"), dict(read_images([out]))


def with_images(folder, png, names=("red.png", "blue.png")):
    (folder / "images").mkdir()
    for name in names:
        (folder / "images" / name).write_bytes(png(name.split(".")[0]))
    return folder


def test_rows_become_examples_named_by_their_place_in_the_file(tmp_path, png):
    rows = [talk("red.png"), talk("blue.png", "What is it?\n<image>"), talk("red.png", answer="a circle")]
    examples, lines, pictures = ingested(with_images(tmp_path, png), rows)
    assert [(one.source, one.row, one.id, one.origin) for one in examples] == [("pets", row, "x", "human") for row in range(3)]
    assert [line.state for line in lines] == [ledger.ON] * 3
    assert examples[0].images == examples[2].images != examples[1].images
    assert sorted(pictures.values()) == sorted([png("red"), png("blue")])


def test_every_row_has_a_ledger_line_and_only_readable_ones_an_example(tmp_path, png):
    rows = [talk("red.png"), 7, None, ["a"], {"id": "y"}, talk("gone.png"), talk(None, "Hello?")]
    examples, lines, _ = ingested(with_images(tmp_path, png), rows)
    # A list inside the list is a group of rows, so that "a" is a row of its own.
    assert [(line.row, line.reason) for line in lines] == [
        (0, ""),
        (1, "not_an_object: the row is int"),
        (2, "not_an_object: the row is NoneType"),
        (3, "not_an_object: the row is str"),
        (4, "no_conversation"),
        (5, "missing_image: gone.png"),
        (6, ""),
    ]
    assert [one.row for one in examples] == [0, 6]
    assert lines[4].id == "y"


def test_half_a_surrogate_pair_ends_in_the_ledger_and_not_in_a_crash(tmp_path, png):
    rows = [talk("red.png", "<image> \ud83d"), {**talk("red.png"), "id": "\ud83d", "task_name": "\ud83d"}, talk("\ud83d.png")]
    examples, lines, _ = ingested(with_images(tmp_path, png), rows)
    assert examples == []
    assert [line.reason.split(":")[0] for line in lines] == ["not_unicode"] * 3
    assert lines[1].id == lines[1].task == "\\ud83d"


def test_a_row_that_ends_leaves_no_picture_behind(tmp_path, png):
    examples, lines, pictures = ingested(with_images(tmp_path, png), [talk(["red.png", "gone.png"]), talk("blue.png")])
    assert [line.state for line in lines] == ["unreadable", ledger.ON]
    assert list(pictures.values()) == [png("blue")]
    assert len(examples) == 1


def test_a_zip_is_read_in_place(tmp_path, png):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as packed:
        packed.writestr("images_191task_1k/red.png", png("red"))
    examples, lines, _ = ingested(tmp_path, [talk("red.png"), talk("blue.png")], images="images.zip")
    assert [line.reason for line in lines] == ["", "missing_image: blue.png"]
    assert len(examples) == 1
    assert not (tmp_path / "images_191task_1k").exists()


def test_instructions_lie_beside_the_examples_for_render(tmp_path, png):
    task = {"domain": "shapes", "kind": "short", "instructions": ["What is it?", "Name it.", "Say what it is."]}
    (tmp_path / "instructions.json").write_text(json.dumps({"shapes+name": task}))
    row = {"instance_id": "shapes+name+0", "task_name": "shapes+name", "img_path": "red.png", "output": "a square"}
    examples, _, _ = ingested(
        with_images(tmp_path, png), [row], format="vision_flan", instructions="instructions.json"
    )  # fmt: skip
    assert (examples[0].templated, examples[0].domain, examples[0].kind) == (True, "shapes", "short")
    assert json.loads((tmp_path / "ingested" / "instructions.json").read_text()) == {"shapes+name": task}


def test_a_source_of_text_alone_needs_no_pictures(tmp_path):
    examples, _, pictures = ingested(tmp_path, [talk(None, "Hello?")], images=None)
    assert (len(examples), pictures) == (1, {})
    assert json.loads((tmp_path / "ingested" / "instructions.json").read_text()) == {}


def test_the_same_source_gives_the_same_bytes(tmp_path, png):
    rows = [talk("red.png"), talk("gone.png"), talk("blue.png")]
    with_images(tmp_path, png)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    for name in ("first", "second"):
        ingest(params(), "pets", tmp_path, tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "first").as_posix() for path in (tmp_path / "first").rglob("*.*"))
    assert files == ["examples/00000.parquet", "images/00000.parquet", "instructions.json", "ledger.parquet", "source.json"]
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "coco"}, r"is no known format; known: .*llava, .*vision_flan"),
        ({"annotations": "gone.json"}, r"there is no file .*gone\.json"),
        ({"annotations": "../rows.json"}, r"'\.\./rows\.json' leads out of the source's folder"),
        ({"annotations": "../*.json"}, r"'\.\./\*\.json' leads out of the source's folder"),
        ({"annotations": "/etc/*.json"}, "leads out of the source's folder"),
        ({"annotations": "gone/*.json"}, r"no file in .* fits 'gone/\*\.json'; it comes from .* params\.yaml"),
        ({"annotations": "a**/*.json"}, r"a\*\*/\*\.json'"),
        ({"images": "/etc"}, "'/etc' leads out of the source's folder"),
        ({"images": "pictures"}, "there is no folder, zip or tar"),
        ({"instructions": "gone.json"}, r"there is no file .*gone\.json"),
    ],
)
def test_a_wrong_param_is_an_error_that_names_it(tmp_path, png, change, message):
    with pytest.raises(ValueError, match=message):
        ingested(with_images(tmp_path, png), [talk("red.png")], **change)


def test_an_unknown_source_is_an_error_that_lists_the_known(tmp_path):
    with pytest.raises(ValueError, match=r"ingest\.sources has no 'birds'; it has pets"):
        ingest(params(), "birds", tmp_path, tmp_path / "out")


@pytest.mark.parametrize("named", ["images", "annotations"])
def test_a_link_that_leads_out_of_the_folder_is_not_followed(tmp_path, png, named):
    outside, folder = tmp_path / "outside", tmp_path / "source"
    for each in (outside, folder):
        each.mkdir()
        with_images(each, png)
        (each / "rows.json").write_text(json.dumps([talk("red.png")]))
    (folder / "link").symlink_to({"images": outside / "images", "annotations": outside / "rows.json"}[named])
    with pytest.raises(ValueError, match=r"'link' is a link that leads out of the source's folder .*source"):
        ingested(folder, [talk("red.png")], **{named: "link"})
    (folder / "link").unlink()
    (folder / "link").symlink_to("link")
    with pytest.raises(ValueError, match="link"):
        ingested(folder, [talk("red.png")], **{named: "link"})


def test_the_folder_may_be_a_link_and_so_may_what_stays_in_it(tmp_path, png):
    (tmp_path / "real").mkdir()
    with_images(tmp_path / "real", png)
    (tmp_path / "real" / "pictures").symlink_to("images")
    (tmp_path / "source").symlink_to("real")
    _, lines, _ = ingested(tmp_path / "source", [talk("red.png")], images="pictures")
    assert [line.state for line in lines] == [ledger.ON]


def test_a_pattern_takes_every_file_it_fits_in_the_order_of_their_paths(tmp_path, png):
    with_images(tmp_path, png)
    for name, colour in (("b.json", "red.png"), ("a/z.json", "blue.png"), ("a.jsonl", "gone.png"), ("a/._z.json", "gone.png")):
        path = tmp_path / "talks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([talk(colour)]))
    (tmp_path / "talks" / "folder.json").mkdir()
    examples, lines, _ = ingested(tmp_path, [], annotations="talks/**/*.json")
    assert [(line.row, line.reason, line.file) for line in lines] == [(0, "", "talks/a/z.json"), (1, "", "talks/b.json")]
    assert [one.row for one in examples] == [0, 1]


def test_a_name_that_reads_like_a_pattern_is_the_file_of_that_name_where_there_is_one(tmp_path, png):
    with_images(tmp_path, png)
    (tmp_path / "[1].json").write_text(json.dumps([talk("red.png")]))
    (tmp_path / "1.json").write_text(json.dumps([talk("red.png")] * 2))
    _, lines, _ = ingested(tmp_path, [], annotations="./[1].json")
    assert [line.file for line in lines] == ["[1].json"]


@pytest.mark.parametrize("pattern", ["talks/*.json", "*/rows.json", "talks/**/*.json"])
def test_a_pattern_does_not_follow_a_link_out_of_the_folder(tmp_path, png, pattern):
    outside, folder = tmp_path / "outside", tmp_path / "source"
    (folder / "talks").mkdir(parents=True)
    outside.mkdir()
    with_images(folder, png)
    (outside / "rows.json").write_text(json.dumps([talk("red.png")]))
    (folder / "talks" / "a.json").write_text("[]")
    (folder / "talks" / "link.json").symlink_to(outside / "rows.json")
    (folder / "elsewhere").symlink_to(outside)
    with pytest.raises(ValueError, match="is a link that leads out of the source's folder"):
        ingested(folder, [], annotations=pattern)


def test_a_link_to_nothing_is_no_file_to_pass_over(tmp_path, png):
    with_images(tmp_path, png)
    (tmp_path / "talks").mkdir()
    (tmp_path / "talks" / "a.json").write_text("[]")
    (tmp_path / "talks" / "b.json").symlink_to("gone.json")
    with pytest.raises(ValueError, match=r"there is no file .*b\.json"):
        ingested(tmp_path, [], annotations="talks/*.json")


def test_a_row_that_ends_leaves_no_picture_behind_that_it_brought_along(tmp_path, png):
    red, blue = (f"data:image/png;base64,{base64.b64encode(png(colour)).decode()}" for colour in ("red", "blue"))
    _, lines, pictures = ingested(tmp_path, [talk([red, "gone.png"]), talk([blue, blue])], images=None)
    assert [line.reason.split(":")[0] for line in lines] == ["missing_image", ""]
    assert list(pictures.values()) == [png("blue")]


def test_rows_that_bring_their_pictures_along_are_never_in_memory_all_at_once(tmp_path):
    rows = [{**talk(None), "images": [{"bytes": bytes([number]) * 2**20, "path": None}]} for number in range(64)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet", compression="none", row_group_size=8)
    del rows
    tracemalloc.start()
    ingest(params(annotations="rows.parquet", images=None), "pets", tmp_path, tmp_path / "out")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 32 * 2**20
    assert len(dict(read_images([tmp_path / "out"]))) == 64


def test_the_source_says_of_itself_what_was_declared(tmp_path):
    ingested(tmp_path, [talk(None, "Hello?")], images=None, licence="CC-BY-4.0", language="en-GB")
    assert json.loads((tmp_path / "ingested" / "source.json").read_text()) == {
        "format": "llava", "hub": None, "language": "en-GB", "licence": "CC-BY-4.0", "origin": "human",
    }  # fmt: skip


def test_a_rows_language_is_the_sources_where_neither_row_nor_file_says_one(tmp_path):
    for name in ("ocr_cn.json", "posters.json"):
        (tmp_path / name).write_text(json.dumps([talk(None, "Hello?")]))
    examples, _, _ = ingested(tmp_path, [], format="mminstruct", annotations="[op]*.json", images=None, language="fr")
    assert [one.language for one in examples] == ["zh", "fr"]
    examples, _, _ = ingested(tmp_path, [talk(None, "Hello?")], images=None)
    assert [one.language for one in examples] == [""]


@pytest.mark.parametrize("language", ["english", "e", "en_GB", ""])
def test_a_language_is_named_as_bcp_47_has_it(language):
    with pytest.raises(ValueError, match="language"):
        params(language=language)


def test_what_a_source_excludes_ends_by_name_and_leaves_no_picture(tmp_path, png):
    with_images(tmp_path, png)
    (tmp_path / "held_out.txt").write_text("107\nblue.png\n\nmine\n", encoding="utf-8")
    rows = [talk("red.png"), talk("blue.png"), talk("VG_100K/107.png"), {**talk("red.png"), "id": "mine"}, {"id": "mine"}]
    (tmp_path / "images" / "107.png").write_bytes(png("green"))
    examples, lines, pictures = ingested(tmp_path, rows, exclude="held_out.txt")
    assert [(line.state, line.reason) for line in lines] == [
        (ledger.ON, ""),
        ("excluded", "excluded_by_source: blue.png"),
        ("excluded", "excluded_by_source: 107"),
        ("excluded", "excluded_by_source: mine"),
        ("unreadable", "no_conversation"),
    ]
    assert [one.row for one in examples] == [0]
    assert list(pictures.values()) == [png("red")]
    with pytest.raises(ValueError, match=r"there is no file .*gone\.txt"):
        ingested(tmp_path, rows, exclude="gone.txt")


def shards_of(folder, rows, shard_rows):
    (folder / "rows.json").write_text(json.dumps(rows))
    about = params().sources["pets"]
    ingest(Params(sources={"pets": about}, shard_rows=shard_rows, shard_mib=1), "pets", folder, folder / "out")
    return {path.name: path.read_bytes() for path in sorted((folder / "out" / "examples").glob("*"))}


@pytest.mark.parametrize("entries", [1, 4, 100])
def test_a_shard_has_the_rows_of_its_numbers_and_rows_at_the_end_leave_it_as_it_was(tmp_path, png, monkeypatch, entries):
    with_images(tmp_path, png)
    rows = [talk("red.png"), 7, talk("blue.png"), talk("red.png"), 8, 9, talk("blue.png")]
    before = shards_of(tmp_path, rows, 3)
    monkeypatch.setattr(reading, "ENTRIES", entries)
    assert shards_of(tmp_path, rows, 3) == before
    assert [[one.row for one in example.read(tmp_path / "out" / "examples" / name)] for name in before] == [[0, 2], [3], [6]]
    after = shards_of(tmp_path, [*rows, talk("red.png"), talk("gone.png"), 10], 3)
    assert list(after) == [f"{number:05d}.parquet" for number in range(4)]
    assert (after["00000.parquet"], after["00001.parquet"]) == (before["00000.parquet"], before["00001.parquet"])


@pytest.mark.parametrize(("rows", "shards"), [(0, 1), (2, 1), (3, 1), (4, 2), (6, 2)])
def test_there_are_as_many_shards_as_the_rows_fill_and_one_where_there_are_none(tmp_path, png, rows, shards):
    assert len(shards_of(with_images(tmp_path, png), [7] * rows, 3)) == shards


def test_rows_with_one_picture_several_or_none_are_one_source_whose_pictures_lie_in_several_folders(tmp_path, png):
    for name, colour in (("coco/train2017/1.png", "red"), ("vg/VG_100K/1.png", "blue"), ("gqa/2.png", "green")):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(png(colour))
    text = {"model": "", "id": "wgByO4Y_0", "conversations": talk(None, "Hello?")["conversations"]}
    rows = [
        talk("coco/train2017/1.png"),
        talk("vg/VG_100K/1.png"),
        text,
        talk(["gqa/2.png", "coco/train2017/1.png"]),
        talk("1.png"),
    ]
    examples, lines, pictures = ingested(tmp_path, rows)
    assert [[pictures[digest] for digest in one.images] for one in examples] == [
        [png("red")], [png("blue")], [], [png("green"), png("red")],
    ]  # fmt: skip
    assert [line.reason for line in lines[:4]] == [""] * 4
    assert lines[4].reason == "ambiguous_image: 1.png could be coco/train2017/1.png or vg/VG_100K/1.png"


def test_a_file_that_is_cut_off_is_refused_before_anything_is_read_from_it(tmp_path, png, monkeypatch):
    with_images(tmp_path, png)
    (tmp_path / "cut.json").write_text(json.dumps([talk("red.png")] * 9)[:-1])
    monkeypatch.setattr(reading, "ENTRIES", 1)
    with pytest.raises(ValueError, match=r"cut\.json is not valid JSON: .* where the file ends: it looks cut off"):
        ingested(tmp_path, [], annotations="cut.json")
    assert not list((tmp_path / "ingested").rglob("ledger.parquet"))
    assert not list((tmp_path / "ingested").rglob("examples/*"))


def hub(**change):
    return Hub(**{"id": "them/theirs", "revision": "0123456789" * 4, "name": None, "split": "train", **change})


def test_rows_of_the_hub_are_read_by_the_sources_format_and_say_where_they_stand(tmp_path, png, monkeypatch):
    (tmp_path / "there").mkdir()
    rows = [{**talk(None, "<image>\nWhat is it?"), "images": [{"bytes": png("red"), "path": "gone.png"}]}, {"id": "y"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "there" / "rows.parquet")
    real = datasets.load_dataset_builder
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda id, name, **given: real(str(tmp_path / "there")))
    monkeypatch.setattr(of_the_hub, "check_files", lambda files, revision: None)
    examples, lines, pictures = ingested(tmp_path, [], annotations=None, images=None, hub=hub())
    assert [(line.reason, line.file) for line in lines] == [
        ("", "them/theirs@0123456789012345678901234567890123456789/train"),
        ("no_conversation", "them/theirs@0123456789012345678901234567890123456789/train"),
    ]
    assert [pictures[one.images[0]] for one in examples] == [png("red")]
    assert json.loads((tmp_path / "ingested" / "source.json").read_text())["hub"]["revision"] == "0123456789" * 4


@pytest.mark.parametrize("revision", ["main", "0123456789" * 4 + "0", "", None])
def test_a_revision_of_the_hub_that_may_move_is_refused(revision):
    with pytest.raises(ValueError, match="revision"):
        hub(revision=revision)


@pytest.mark.parametrize("id", ["theirs", "../theirs", "/etc/passwd", "https://them.example/theirs", "a/b/c", ""])
def test_a_data_set_of_the_hub_has_an_owner_and_a_name_and_is_no_path(id):
    with pytest.raises(ValueError, match="id"):
        hub(id=id)


@pytest.mark.parametrize("change", [{"annotations": None}, {"hub": hub()}])
def test_rows_come_from_one_place(change):
    with pytest.raises(ValueError, match="rows come from annotations or from hub: give one of them, and null for the other"):
        params(**change)
