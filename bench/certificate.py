"""What the certificate costs: `python bench/certificate.py [ROUNDS]`, core time of one process for each row, no download.

Two processors: the embedded model's, and one in the form of LLaVA 1.5 (CLIP at 336 pixels, so 576 tokens a picture; a BPE of
32,000 tokens with byte fallback and a start token) whose tokenizer learns its words here from Python's own library. Rows are
of the shapes of LLaVA's: one question with an answer of some sentences, and five questions with short answers, about pictures
of ten sizes; all words of all rows differ. Beside them the plain way: the processor itself asked about every prompt of every
row, each text tokenised alone. Rows are written, tokenised and proved; reading and writing files is not in it.

Fewer than three rounds are shown and not written to bench/results/certificate.json.
"""

import argparse
import gc
import json
import random
import resource
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast, ProcessorMixin

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a file, it sees only its own folder

from bench import machine  # noqa: E402
from stages.collection.sentences import sentences  # noqa: E402
from stages.corpus.example import IMAGE, Turn  # noqa: E402
from stages.models.loading import load_processor  # noqa: E402
from stages.models.sections import Tiny  # noqa: E402
from stages.models.tiny import build  # noqa: E402
from stages.running.section import read_params  # noqa: E402
from stages.trees.certificate import BATCH, Asked, Prover, prove_all  # noqa: E402
from stages.trees.chat import Chat, Tokens  # noqa: E402

SEED = 17
FEWEST_ROUNDS = 3
SIZES = [(640, height) for height in range(400, 480, 8)]
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% else %}"
    "ASSISTANT: {% for part in message['content'] %}{{ part['text'] }}{% endfor %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
SHAPES = {
    # name: questions, words of each question, words of each answer
    "one question": (1, 14, 42),
    "five questions": (5, 8, 6),
}


def main() -> None:
    """Build both processors, time both shapes and the plain way, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("rounds", type=int, nargs="?", default=5, help="how often each is timed (5)")
    parser.add_argument("--rows", type=int, default=4000, help="rows in each round (4000)")
    asked = parser.parse_args()
    figures: dict[str, Any] = {
        "commit": machine.commit(),
        "machine": machine.describe(),
        "command": f"python bench/certificate.py {asked.rounds} --rows {asked.rows}",
        "rows": asked.rows,
        "rounds": asked.rounds,
    }
    for name, (processor, words) in (("embedded", embedded()), ("llava 1.5", llava())):
        chat = Chat(processor, {processor.tokenizer.eos_token_id})
        figures[name] = {shape: timed(chat, rows(words, shape, asked.rows), asked.rounds) for shape in SHAPES}
    figures["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(figures, indent=2))
    if asked.rounds >= FEWEST_ROUNDS:
        print(f"\nwritten: {machine.write('certificate', figures).relative_to(ROOT)}")
    else:
        print(f"\nnot written: {asked.rounds} rounds, wanted at least {FEWEST_ROUNDS}")


def embedded() -> tuple[ProcessorMixin, list[str]]:
    """The processor of the default run, and words that its tokenizer knows."""
    known = list(sentences(SEED, 2000))
    with tempfile.TemporaryDirectory() as folder:
        build(Tiny(**read_params(ROOT / "params.yaml")["base"]["tiny"]), SEED, known, Path(folder))
        return load_processor(Path(folder)), [word for sentence in known for word in sentence.split()]


def llava() -> tuple[ProcessorMixin, list[str]]:
    """A processor in the form of LLaVA 1.5, and English words."""
    lines = list(library())
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=learnt(lines, 32_000),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": IMAGE},
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
        image_token=IMAGE,
    )
    return processor, [word for line in lines for word in line.split() if word.isalpha()]


def library() -> Iterator[str]:
    """Every line of the modules of Python's own library."""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        yield from path.read_text(encoding="utf-8", errors="replace").splitlines()


def learnt(lines: list[str], vocabulary: int) -> Tokenizer:
    """A BPE as Llama's: no words apart, spaces written out, what is unknown spelt in bytes, a start token before each text."""
    trained = Tokenizer(BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trained.train_from_iterator(
        lines, BpeTrainer(vocab_size=vocabulary - len(special), limit_alphabet=1000, show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    words = special + sorted(model["vocab"], key=model["vocab"].get)
    made = Tokenizer(
        BPE(
            vocab={word: number for number, word in enumerate(words)},
            merges=[tuple(pair) for pair in model["merges"]],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    return made


def rows(words: list[str], shape: str, count: int) -> list[Asked]:
    """Conversations of one of `SHAPES`."""
    questions, of_question, of_answer = SHAPES[shape]
    chance = random.Random(SEED)

    def said(role: str, many: int, before: str = "") -> Turn:
        return Turn(role, before + " ".join(chance.choices(words, k=chance.randint(many // 2, many + many // 2))))

    return [
        (
            [
                turn
                for number in range(questions)
                for turn in (said("user", of_question, "" if number else IMAGE), said("assistant", of_answer))
            ],
            [chance.choice(SIZES)],
        )
        for _ in range(count)
    ]


def timed(chat: Chat, asked: list[Asked], rounds: int) -> dict[str, float | int]:
    """Milliseconds of core time for each row, of the median round; and how much a row is."""
    proved = prove_all(chat, asked)
    tokens = [one for one in proved if isinstance(one, Tokens)]
    assert len(tokens) == len(asked), next(one for one in proved if not isinstance(one, Tokens))
    plain = asked[: max(BATCH, len(asked) // 40)]
    return {
        "text_tokens_a_row": round(sum(len(one.own) for one in tokens) / len(tokens), 1),
        "picture_tokens_a_row": round(sum(one.image_end for one in tokens) / len(tokens), 1),
        "ms_a_row": _median(lambda: _fresh(chat, asked), rounds, len(asked)),
        "ms_a_row_if_the_processor_is_asked_about_each": _median(lambda: Prover(chat, ask_of_all=True)(plain), 1, len(plain)),
    }


def _fresh(chat: Chat, asked: list[Asked]) -> None:
    prove_all(Chat(chat.processor, chat.stops), asked)


def _median(work: Callable[[], object], rounds: int, many: int) -> float:
    seconds = []
    for _ in range(rounds):
        gc.collect()
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return round(1000 * statistics.median(seconds) / many, 3)


if __name__ == "__main__":
    main()
