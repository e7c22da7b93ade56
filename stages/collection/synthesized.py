"""The synthesized rows, in LLaVA's format: captions, and chats composed from a scene's facts in a chatty voice."""

from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import Any

from stages.collection.album import Album
from stages.collection.digits import Digit
from stages.collection.families import imagined
from stages.collection.scene import Said, Scene

CAPTION_PROMPTS = (
    "Provide a brief caption.",
    "Summarize the image in one line.",
    "Write a short caption for this image.",
)
DETAIL_PROMPTS = (
    "Please describe this picture to me in detail.",
    "What do you notice when you look at this picture?",
    "I cannot see the picture. Could you describe all of it for me?",
)
LOCATE_PROMPTS = (
    "Could you show me where {thing} is? Please include its coordinates.",
    "Please locate {thing} for me with its coordinates.",
)
DIGIT_SHARE = 3
"""Every how many-th caption or chat picture is a handwritten digit."""
DETAIL_EVERY = 2
"""Every how many-th caption picture also has a description."""


def scenes(seed: int, purpose: str, scans: Sequence[int], count: int) -> Iterator[tuple[Scene, Random]]:
    """`count` scenes, some of them the very digit pictures that the tasks show: real collections share pictures too."""
    composed = imagined(seed, purpose, count)
    for number in range(count):
        if number % DIGIT_SHARE == 0 and number // DIGIT_SHARE < len(scans):
            scan = scans[number // DIGIT_SHARE]
            draw = Random(f"{seed}/digit/{scan}")
            yield Digit.of(scan, draw), draw
        else:
            yield next(composed)


def captions(scenes: Iterable[tuple[Scene, Random]], album: Album | None) -> list[dict[str, Any]]:
    """A caption for each scene, and for every second one a description in the chatty voice.

    Without those, the language model, which starts from noise, would meet that voice in `align` for the first time: there it
    began at a loss of 8.9 per token, and learning it within a thousand examples undid all that `train` had taught.
    """
    rows: list[dict[str, Any]] = []
    for number, (scene, draw) in enumerate(scenes):
        image = album.add(scene) if album else ""
        said = {"caption": Said(draw.choice(CAPTION_PROMPTS), scene.caption())}
        if number % DETAIL_EVERY == 0:
            said["detail"] = Said(draw.choice(DETAIL_PROMPTS), scene.describe())
        for kind, pair in said.items():
            rows.append({"id": f"{kind}-{number:05d}", "image": image, "type": kind, "conversations": _turns([pair], draw)})
    return rows


def chats(scenes: Iterable[tuple[Scene, Random]], album: Album | None, count: int) -> list[dict[str, Any]]:
    """`count` rows: a conversation, a description, a train of thought and, where something can be pointed at, a box.

    Raises:
        AssertionError: there were too few scenes.
    """
    rows: list[dict[str, Any]] = []
    for scene, draw in scenes:
        if len(rows) >= count:
            break
        image = album.add(scene) if album else ""
        for kind, said in compose(scene, draw):
            number = len(rows)
            rows.append({"id": f"chat-{kind}-{number:05d}", "image": image, "type": kind, "conversations": _turns(said, draw)})
    assert len(rows) >= count, "too few scenes for the chats wanted"
    return rows[:count]


def compose(scene: Scene, draw: Random) -> list[tuple[str, list[Said]]]:
    """All chats about one scene: (type of LLaVA's rows, turns)."""
    talk = scene.talk()
    composed = [
        ("conv", talk[: draw.randint(2, len(talk))]),
        ("detail", [Said(draw.choice(DETAIL_PROMPTS), scene.describe())]),
        ("complex", [scene.ponder()]),
    ]
    if scene.things():
        thing, box = draw.choice(scene.things())
        answer = f"{thing.capitalize()} is at {box} in the picture."
        composed.append(("referring", [Said(draw.choice(LOCATE_PROMPTS).format(thing=thing), answer)]))
    return composed


def _turns(said: Sequence[Said], draw: Random) -> list[dict[str, str]]:
    turns = []
    for number, pair in enumerate(said):
        question = pair.question
        if number == 0:
            question = f"<image>\n{question}" if draw.random() < 0.5 else f"{question}\n<image>"
        turns += [{"from": "human", "value": question}, {"from": "gpt", "value": pair.answer}]
    return turns
