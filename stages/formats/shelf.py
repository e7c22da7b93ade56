"""A source's pictures on their way into the store: each is looked up once, and stored once a row stands on it."""

from collections.abc import Iterator, Sequence

from stages.corpus.images import ImageWriter
from stages.formats.draft import Draft, UnreadableError
from stages.formats.pictures import Pictures


class Shelf:
    """What became of every name that rows gave their pictures so far."""

    def __init__(self, pictures: Pictures, store: ImageWriter) -> None:
        self.pictures = pictures
        self.store = store
        self.stored: dict[str, str] = {}
        """Name → sha256 of the picture, which is in the store."""
        self.refused: dict[str, str] = {}
        """Name → why there is no such picture."""

    def place(self, drafts: Sequence[Draft]) -> list[tuple[str, ...] | UnreadableError]:
        """Store the pictures of `drafts`; each draft's digests, or why one of its pictures cannot be had.

        A draft of which one picture is refused leaves none in the store that no other draft shows: of several pictures, each is
        read to see that it is there before the first is stored.
        """
        brought: dict[str, bytes] = {}
        wanted: dict[str, None] = {}
        named = [tuple(_named(draft, f"{number}", brought)) for number, draft in enumerate(drafts)]
        for names in named:
            new = [name for name in names if name not in self.stored and name not in brought]
            if not new:
                # Most rows of most sources show pictures that earlier ones have shown, or bring theirs along.
                wanted |= dict.fromkeys(name for name in names if name in brought)
            elif len(names) == 1 or all(self._is_there(name) for name in new):
                wanted |= dict.fromkeys(name for name in names if name not in self.stored and name not in self.refused)
        found = self.store.gather(lambda name: brought.get(name) or self.pictures.read(name), list(wanted), UnreadableError)
        digests = {name: digest for name, digest in found.items() if isinstance(digest, str)}
        self.refused |= {name: str(error) for name, error in found.items() if not isinstance(error, str)}
        self.stored |= {name: digest for name, digest in digests.items() if name not in brought}
        return [self._digests(names, digests) for names in named]

    def _digests(self, names: Sequence[str], new: dict[str, str]) -> tuple[str, ...] | UnreadableError:
        for name in names:
            if name in self.refused:
                return UnreadableError(self.refused[name])
        return tuple(self.stored[name] if name in self.stored else new[name] for name in names)

    def _is_there(self, name: str) -> bool:
        if name not in self.refused:
            try:
                self.pictures.read(name)
            except UnreadableError as error:
                self.refused[name] = str(error)
        return name not in self.refused


def _named(draft: Draft, key: str, brought: dict[str, bytes]) -> Iterator[str]:
    """The names of a draft's pictures; of those that it brings along, names that no file can have, noted in `brought`."""
    for place, image in enumerate(draft.images):
        if isinstance(image, str):
            yield image
        else:
            name = f"\0{key}:{place}"
            brought[name] = image
            yield name
