import re
from collections.abc import Iterable
from random import Random

from stages.collection import human, synthesized
from stages.collection.families import imagined, tasks
from stages.collection.sentences import sentences


def words(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r"[A-Za-z']+|\d+", text)}


def test_sentences_come_in_a_fixed_order_and_a_longer_list_begins_with_a_shorter():
    assert sentences(5, 3000)[:900] == sentences(5, 900)
    assert sentences(5, 3000) != sentences(6, 3000)


def test_instructions_come_first_and_all_of_them():
    wanted = [text for task in tasks().values() for text in task.instructions]
    assert sentences(5, len(wanted)) == wanted


def test_sentences_hold_every_word_of_the_rows():
    rows = human.rows(imagined(8, "tasks", 300), None)
    texts = [text for row in rows for text in (row["input_text"] or "", row["output"], *(row["options"] or ()))]
    for row in synthesized.chats(imagined(8, "chats", 150), None, 400):
        texts += [turn["value"].replace("<image>", "") for turn in row["conversations"]]

    known = words(sentences(5, 12_000))
    # The shares of boxes are the only numbers with too many values to meet them all.
    assert {word for word in words(texts) - known if not word.isdigit()} == set()


def test_the_same_chance_gives_the_same_chat():
    (scene, _) = next(imagined(1, "chats", 1))
    assert synthesized.compose(scene, Random(1)) == synthesized.compose(scene, Random(1))
