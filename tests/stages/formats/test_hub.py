import datasets
import pyarrow as pa
import pytest

from stages.formats import hub as of_the_hub
from stages.formats.annotations import read_rows
from stages.formats.hub import read_hub

PINNED = "0123456789" * 4


@pytest.fixture
def dataset(png):
    """Five rows that bring a picture along, as the library keeps them."""
    features = datasets.Features({"id": datasets.Value("string"), "images": datasets.List(datasets.Image())})
    pictures = [[{"bytes": png("red"), "path": None}]] * 5
    return datasets.Dataset.from_dict({"id": list("abcde"), "images": pictures}, features=features)


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()


def are_whole(rows, png):
    return [row["id"] for row in rows] == list("abcde") and rows[0]["images"] == [{"bytes": png("red"), "path": None}]


def test_a_folder_that_the_library_saved_gives_its_rows_with_pictures_as_they_came(tmp_path, dataset, png):
    dataset.save_to_disk(tmp_path / "saved", num_shards=2)
    assert are_whole(list(read_rows(tmp_path / "saved")), png)


@pytest.mark.parametrize("make", [pa.ipc.new_stream, pa.ipc.new_file])
def test_an_arrow_file_gives_its_rows_however_it_was_written(tmp_path, dataset, png, make):
    table = dataset.with_format("arrow")[:]
    with make(str(tmp_path / "rows.arrow"), table.schema) as file:
        file.write_table(table, max_chunksize=2)
    assert are_whole(list(read_rows(tmp_path / "rows.arrow")), png)


def test_a_folder_of_several_splits_asks_for_one_and_any_other_folder_for_a_file(tmp_path, dataset):
    datasets.DatasetDict({"train": dataset, "test": dataset}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"holds several splits; name one of them, as saved/train"):
        list(read_rows(tmp_path / "saved"))
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match=r"none that `save_to_disk` made; .* as other/\*\.json"):
        list(read_rows(tmp_path / "other"))


def test_a_saved_folder_or_arrow_file_that_is_cut_off_is_refused_by_name(tmp_path, dataset):
    dataset.save_to_disk(tmp_path / "saved")
    (data,) = (tmp_path / "saved").glob("*.arrow")
    (tmp_path / "rows.arrow").write_bytes(data.read_bytes()[:300])
    data.write_bytes(data.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"saved is no whole folder of `save_to_disk`: .*; copy or save it again"):
        list(read_rows(tmp_path / "saved"))
    with pytest.raises(ValueError, match=r"rows\.arrow is no whole Arrow file"):
        list(read_rows(tmp_path / "rows.arrow"))


def test_the_hubs_rows_are_streamed_from_the_pinned_commit(tmp_path, dataset, png, monkeypatch):
    (tmp_path / "repository").mkdir()
    dataset.to_parquet(tmp_path / "repository" / "train-00000.parquet")
    asked = []
    real = datasets.load_dataset_builder
    monkeypatch.setattr(of_the_hub, "check_files", lambda files, revision: None)

    def load(id, name, **given):
        asked.append((id, name, given))
        return real(str(tmp_path / "repository"), **{**given, "revision": None}, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    assert are_whole(list(read_hub("them/theirs", PINNED, None, "train")), png)
    assert asked == [("them/theirs", None, {"revision": PINNED})]
    with pytest.raises(ValueError, match=r"'them/theirs' \(revision 0123.*, split 'gone'\) cannot be read: .*split"):
        list(read_hub("them/theirs", PINNED, None, "gone"))


def test_a_hub_that_cannot_be_reached_is_one_clear_error(monkeypatch):
    def load(*_, **__):
        raise ConnectionError("Couldn't reach 'them/theirs' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    with pytest.raises(ValueError, match=r"cannot be read: ConnectionError: Couldn't reach .*; look whether the network"):
        list(read_hub("them/theirs", PINNED, None, "train"))


def test_a_saved_folder_whose_rows_lie_elsewhere_is_not_followed(tmp_path, dataset):
    dataset.save_to_disk(tmp_path / "saved")
    (data,) = (tmp_path / "saved").glob("*.arrow")
    data.rename(tmp_path / "outside.arrow")
    data.symlink_to(tmp_path / "outside.arrow")
    with pytest.raises(ValueError, match=r"saved names 'data-.*' as its file of rows, which leads out of it"):
        list(read_rows(tmp_path / "saved"))
    (tmp_path / "saved" / "state.json").write_text('{"_data_files": [{"filename": "../outside.arrow"}]}')
    with pytest.raises(ValueError, match="which leads out of it"):
        list(read_rows(tmp_path / "saved"))
    (tmp_path / "saved" / "state.json").write_text("{}")
    with pytest.raises(ValueError, match="does not say which files have the rows"):
        list(read_rows(tmp_path / "saved"))


def test_a_folder_that_is_called_like_the_hubs_data_set_is_not_read_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "them" / "theirs").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"'them/theirs' is to come from the hub, but .* is there too"):
        list(read_hub("them/theirs", PINNED, None, "train"))


@pytest.mark.parametrize(
    "file",
    [
        "/home/me/secret.json",
        "http://127.0.0.1/rows.json",
        f"hf://datasets/them/theirs@{'f' * 40}/rows.parquet",
        f"hf://datasets/them/theirs@{PINNED}/../../others/rows.parquet",
    ],
)
def test_files_that_are_not_of_the_pinned_commit_are_not_read(file):
    of_the_hub.check_files([f"hf://datasets/them/theirs@{PINNED}/data/rows.parquet"], PINNED)
    with pytest.raises(ValueError, match="which is not of the commit"):
        of_the_hub.check_files([file], PINNED)
