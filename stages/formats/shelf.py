"""A source's pictures on their way into the store: each is looked up once, and stored once a row stands on it."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.corpus.images import ImageWriter
from stages.formats.draft import UnreadableError
from stages.formats.pictures import Pictures
from stages.formats.reading import printable


class Shelf:
    """What became of every name that rows gave their pictures so far."""

    def __init__(self, pictures: Pictures, store: ImageWriter) -> None:
        self.pictures = pictures
        self.store = store
        self.stored: dict[str, str] = {}
        """Name → sha256 of the picture, which is in the store."""
        self.refused: dict[str, str] = {}
        """Name → why there is no such picture."""

    def place(self, rows: pa.Table, brought: Mapping[str, bytes]) -> pa.Table:
        """`rows`, of `reading.SCHEMA`, with digests for their pictures' names, and these in the store.

        A row of which one picture is refused is unreadable for that reason, and leaves none in the store that no other row
        shows: of several pictures each is read, to see that it is there, before the first is stored.
        """
        images = rows["images"].combine_chunks()
        counts = pc.list_value_length(images).to_numpy()
        encoded = images.flatten().dictionary_encode()
        of_rows = _Names(encoded.dictionary.to_pylist(), encoded.indices.to_numpy(), counts)
        # Most rows of most sources show pictures that earlier rows have shown: only of the others is anything asked by itself.
        own = self._store(of_rows.having(lambda name: name not in self.stored and name not in self.refused), brought)
        digests = pa.array([own.get(name) or self.stored.get(name) for name in of_rows.names], pa.string())
        ends = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
        placed = pa.ListArray.from_arrays(ends, digests.take(encoded.indices))
        rows = rows.set_column(rows.schema.get_field_index("images"), rows.schema.field("images"), placed)
        return self._ended(rows, of_rows.having(lambda name: name in self.refused))

    def _store(self, rows: Mapping[int, Sequence[str]], brought: Mapping[str, bytes]) -> dict[str, str]:
        """Store what is new of the pictures of `rows`, in their order; the digests of those that were brought along."""
        wanted: dict[str, None] = {}
        for names in rows.values():
            if len(names) == 1 or all(name in brought or self._is_there(name) for name in names):
                wanted |= dict.fromkeys(name for name in names if name not in self.stored and name not in self.refused)
        found = self.store.gather(
            lambda name: brought[name] if name in brought else self.pictures.read(name), list(wanted), UnreadableError
        )
        digests = {name: digest for name, digest in found.items() if isinstance(digest, str)}
        self.refused |= {name: printable(str(error)) for name, error in found.items() if not isinstance(error, str)}
        self.stored |= {name: digest for name, digest in digests.items() if name not in brought}
        return {name: digest for name, digest in digests.items() if name in brought}

    def _is_there(self, name: str) -> bool:
        if name not in self.stored and name not in self.refused and not self.store.knows(name):
            try:
                self.pictures.read(name)
            except UnreadableError as error:
                self.refused[name] = printable(str(error))
        return name not in self.refused

    def _ended(self, rows: pa.Table, lacking: Mapping[int, Sequence[str]]) -> pa.Table:
        """`rows`, of which those end that lack a picture, for the first that they lack."""
        if not lacking:
            return rows
        states, reasons = rows["state"].to_pylist(), rows["reason"].to_pylist()
        for number, names in lacking.items():
            states[number] = "unreadable"
            reasons[number] = next(self.refused[name] for name in names if name in self.refused)
        for column, values in (("state", states), ("reason", reasons)):
            rows = rows.set_column(
                rows.schema.get_field_index(column), rows.schema.field(column), pa.array(values, pa.string())
            )
        return rows


class _Names:
    """The names of each row's pictures: `names[codes]`, `counts` of them a row."""

    def __init__(self, names: list[str], codes: np.ndarray, counts: np.ndarray) -> None:
        self.names = names
        self.codes = codes
        self.ends = np.cumsum(counts)
        self.row_of = np.repeat(np.arange(len(counts)), counts)

    def having(self, wanted: Callable[[str], bool]) -> dict[int, list[str]]:
        """The rows one of whose names is `wanted`, by their number, each with all its names."""
        if not self.names:
            return {}
        rows = np.unique(self.row_of[np.array([wanted(name) for name in self.names])[self.codes]])
        starts = np.concatenate([[0], self.ends[:-1]])
        return {int(row): [self.names[code] for code in self.codes[starts[row] : self.ends[row]]] for row in rows}
