"""Tiny random models of every family, each with its own processor: what bench/equality.py measures, and what tests hold.

A thousandth of the real ones in every size, and else alike: several pictures, tiles, windows that are shorter than a prefix,
tokenizers that draw line feeds together. Only the video half of a processor is left out: it needs torchvision.
"""

import random
import sys
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers import (
    AddedToken,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2VLImageProcessorPil,
    Qwen3Config,
    SiglipVisionConfig,
)
from transformers.models.smolvlm import processing_smolvlm as smolvlm_processing

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a bench, run as a file, sees only its own folder

from stages.corpus.example import IMAGE, Turn
from stages.corpus.images import ImageWriter
from stages.models.loading import load_model, load_processor
from stages.models.processors import Unloaded
from stages.models.tiny import CHAT_TEMPLATE
from stages.trees import attention
from stages.trees.certificate import prove_all
from stages.trees.chat import Chat, Tokens
from stages.trees.tree import Branch, Tree

Built = tuple[Any, PreTrainedModel]
"""A processor and a model."""

GRID = [[16, 16], [16, 32], [32, 16], [32, 32]]
"""Canvases of one, two and four tiles of 16 x 16 pixels."""
TOWER: dict[str, Any] = {
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
TALKS: list[list[tuple[str, str]]] = [
    [("What colour is it?", "red")],
    [("Is it round?", "No")],
    [("Count the shapes.", "one two"), ("Is it blue?", "Yes"), ("What colour is it?", "green")],
]
"""Questions and answers of each conversation about the pictures of a tree; the last has several turns."""
SHOWN = [[(20, 20)], [(60, 15)], [(12, 40)], [(20, 20), (60, 15)]]
"""Width and height of the pictures of each tree: a square one, a wide one, a tall one, and two at once."""


def language(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def named(tokenizer: Any, **tokens: str) -> Any:
    """The tokenizer with special tokens that its processor asks for by name."""
    own = {name: token for name, token in tokens.items() if name not in ("bos_token", "eos_token")}
    plain = {name: tokens.get(name, getattr(tokenizer, name)) for name in ("bos_token", "eos_token", "pad_token")}
    again = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        extra_special_tokens={"image_token": tokenizer.image_token, **own},
        clean_up_tokenization_spaces=False,
        **plain,
    )
    again.add_tokens(list(tokens.values()), special_tokens=True)
    return again


def without_video(kind: type, **given: Any) -> Any:
    lenient = type(kind.__name__, (kind,), {"check_argument_for_proper_class": lambda *_: None})
    return lenient(video_processor=Unloaded({}), **given)


def llava_next(tokenizer: Any) -> Built:
    from transformers import (
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessorPil,
        LlavaNextProcessor,
    )

    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=GRID
        ),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**TOWER),
        text_config=LlamaConfig(**language(tokenizer)),
        image_token_index=processor.image_token_id,
        image_grid_pinpoints=GRID,
    )
    return processor, LlavaNextForConditionalGeneration(config)


def llava_onevision(tokenizer: Any) -> Built:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessorPil,
        LlavaOnevisionProcessor,
    )

    processor = without_video(
        LlavaOnevisionProcessor,
        image_processor=LlavaOnevisionImageProcessorPil(size={"height": 16, "width": 16}, image_grid_pinpoints=GRID),
        tokenizer=tokenizer,
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**TOWER),
        text_config=Qwen2Config(**language(tokenizer)),
        image_token_index=processor.image_token_id,
        video_token_index=len(tokenizer),
        image_grid_pinpoints=GRID,
    )
    return processor, LlavaOnevisionForConditionalGeneration(config)


def idefics3(tokenizer: Any) -> Built:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessorPil, Idefics3Processor

    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16}),
        tokenizer=tokenizer,
        image_seq_len=1,
        chat_template=CHAT_TEMPLATE,
    )
    config = Idefics3Config(
        vision_config=TOWER,
        text_config=LlamaConfig(**language(tokenizer)),
        image_token_id=processor.image_token_id,
        pad_token_id=tokenizer.pad_token_id,  # type: ignore[call-arg]  # taken, but not named, by the config
    )
    return processor, Idefics3ForConditionalGeneration(config)


def smolvlm(tokenizer: Any) -> Built:
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMImageProcessorPil, SmolVLMProcessor

    tokenizer = named(tokenizer, fake_image_token="<fake_token_around_image>", global_image_token="<global-img>")
    processor = without_video(
        SmolVLMProcessor,
        image_processor=SmolVLMImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16}),
        tokenizer=tokenizer,
        image_seq_len=1,
        chat_template=CHAT_TEMPLATE,
    )
    config = SmolVLMConfig(
        vision_config=TOWER,
        text_config=LlamaConfig(**language(tokenizer)),
        image_token_id=processor.image_token_id,
        pad_token_id=tokenizer.pad_token_id,  # type: ignore[call-arg]  # taken, but not named, by the config
    )
    return processor, SmolVLMForConditionalGeneration(config)


def internvl(tokenizer: Any) -> Built:
    from transformers import GotOcr2ImageProcessorPil, InternVLConfig, InternVLForConditionalGeneration, InternVLProcessor

    shown = "<IMG_CONTEXT>"
    tokenizer = named(
        tokenizer,
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token=shown,
        video_token="<video>",
    )
    processor = without_video(
        InternVLProcessor,
        image_processor=GotOcr2ImageProcessorPil(size={"height": 16, "width": 16}),
        tokenizer=tokenizer,
        image_seq_length=1,
        chat_template=CHAT_TEMPLATE.replace(IMAGE, shown),
    )
    config = InternVLConfig(
        vision_config={**TOWER, "image_size": [16, 16], "patch_size": [8, 8]},
        text_config=Qwen2Config(**language(tokenizer)),
        image_token_id=processor.image_token_id,
    )
    return processor, InternVLForConditionalGeneration(config)


def qwen(name: str, vision: dict[str, Any], rope: dict[str, Any]) -> Callable[[Any], Built]:
    """A Qwen-VL, whose positions have three dimensions and whose pictures have as many tokens as their size wants."""

    def build(tokenizer: Any) -> Built:
        config_class, model_class, processor_class = (
            getattr(transformers, name + part) for part in ("Config", "ForConditionalGeneration", "Processor")
        )
        tokenizer = named(
            tokenizer,
            image_token="<|image_pad|>",
            video_token="<|video_pad|>",
            vision_start_token="<|vision_start|>",
            vision_end_token="<|vision_end|>",
        )
        shown = "<|vision_start|><|image_pad|><|vision_end|>"
        processor = without_video(
            processor_class,
            image_processor=Qwen2VLImageProcessorPil(
                size={"shortest_edge": 16 * 16, "longest_edge": 48 * 48}, patch_size=8, merge_size=2, temporal_patch_size=2
            ),
            tokenizer=tokenizer,
            chat_template=CHAT_TEMPLATE.replace(IMAGE, shown),
        )
        config = config_class(
            vision_config={
                "patch_size": 8,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "depth": 2,
                "num_heads": 2,
                **vision,
            },
            text_config={**language(tokenizer), "num_hidden_layers": 3, **rope},
            image_token_id=tokenizer.image_token_id,
            video_token_id=tokenizer.video_token_id,
            vision_start_token_id=tokenizer.vision_start_token_id,
            vision_end_token_id=tokenizer.vision_end_token_id,
        )
        return processor, model_class(config)

    return build


GEMMA_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<start_of_image>{% else %}{{ part['text'] | trim }}{% endif %}"
    "{% endfor %}"
    "<end_of_turn>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""Of the form of Gemma 3's own."""


def gemma3(tokenizer: Any) -> Built:
    """A Gemma 3, whose pictures have more tokens than its window has positions."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessorPil, Gemma3Processor

    tokenizer = named(
        tokenizer,
        image_token="<image_soft_token>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        bos_token="<bos>",
        eos_token="<end_of_turn>",
    )
    tokenizer.add_tokens(["<start_of_turn>"], special_tokens=True)
    # Gemma's tokenizer has a token for each number of line feeds: those of the template and of the processor become one.
    tokenizer.add_tokens([AddedToken("\n" * number, normalized=False) for number in range(1, 8)])
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size={"height": 32, "width": 32}),
        tokenizer=tokenizer,
        image_seq_length=16,
        chat_template=GEMMA_TEMPLATE,
    )
    config = Gemma3Config(
        vision_config={**TOWER, "image_size": 32, "vision_use_head": False},
        text_config={
            **language(tokenizer),
            "num_hidden_layers": 3,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        mm_tokens_per_image=16,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
    )
    model = Gemma3ForConditionalGeneration(config)
    # First weights of zero, by which a picture would be nothing.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    return processor, model


PALIGEMMA_TEMPLATE = (
    "{% for message in messages %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}" + IMAGE + "{% else %}"
    "{% if message['role'] == 'assistant' %}{{ '\n' }}{% endif %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
"""The line feed before an answer is what the processor ends a prompt with."""


def paligemma(version: int) -> Callable[[Any], Built]:
    """A PaliGemma; the second's language model has a window in one layer and caps its scores."""

    def build(tokenizer: Any) -> Built:
        from transformers import (
            GemmaConfig,
            PaliGemmaConfig,
            PaliGemmaForConditionalGeneration,
            PaliGemmaProcessor,
            SiglipImageProcessorPil,
        )

        tokenizer = named(tokenizer, bos_token="<bos>")
        images = SiglipImageProcessorPil(size={"height": 16, "width": 16})
        images.image_seq_length = 4  # type: ignore[attr-defined]  # read from the released processors' files
        processor = PaliGemmaProcessor(image_processor=images, tokenizer=tokenizer, chat_template=PALIGEMMA_TEMPLATE)
        text = {**language(tokenizer), "num_key_value_heads": 1, "head_dim": 16}
        capped: dict[str, Any] = {"sliding_window": 6, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 16}
        config = PaliGemmaConfig(
            vision_config={**TOWER, "model_type": "siglip_vision_model", "vision_use_head": False, "projection_dim": 32},
            text_config=GemmaConfig(**text) if version == 1 else Gemma2Config(**text, **capped),
            image_token_index=processor.image_token_id,
            projection_dim=32,
        )
        return processor, PaliGemmaForConditionalGeneration(config)

    return build


OLD_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}}
BUILT: dict[str, Callable[[Any], Built]] = {
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "internvl": internvl,
    "qwen2_vl": qwen("Qwen2VL", {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}, OLD_ROPE),
    "qwen2_5_vl": qwen(
        "Qwen2_5_VL",
        {"hidden_size": 16, "intermediate_size": 32, "out_hidden_size": 32, "window_size": 32, "fullatt_block_indexes": [1]},
        OLD_ROPE,
    ),
    "qwen3_vl": qwen(
        "Qwen3VL",
        {
            "hidden_size": 16,
            "intermediate_size": 32,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        {**OLD_ROPE, "head_dim": 16},
    ),
    "gemma3": gemma3,
    "paligemma": paligemma(1),
    "paligemma2": paligemma(2),
}
"""By model type, but for a second PaliGemma; a LLaVA is what stages/models/tiny.py builds."""


WORDS: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "pad_token_id": 0,
}
LANGUAGES: dict[str, PretrainedConfig] = {
    "two queries a key": LlamaConfig(**WORDS),
    "a window in every layer": MistralConfig(**WORDS, sliding_window=4),
    "a window in the second layer": Qwen2Config(**WORDS, use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "queries, keys and values in one matrix": Phi3Config(**WORDS, bos_token_id=1, eos_token_id=2),
    "normed queries": Qwen3Config(**WORDS),
    "a window in one layer and capped scores": Gemma2Config(**WORDS, sliding_window=4, attn_logit_softcapping=2.0),
    "a window in one layer and rotation by kind": Gemma3TextConfig(
        **WORDS, sliding_window=4, layer_types=["sliding_attention", "full_attention"], query_pre_attn_scalar=4
    ),
}
"""Language models alone, by what is special about their attention."""


def branch(*ids: int, answer: int) -> Branch:
    """A branch whose last `answer` tokens are supervised."""
    return Branch("s", 0, "t", "short", ids, (False,) * (len(ids) - answer) + (True,) * answer)


FOREST = [
    Tree(("a",), (3, 4, 5, 6, 7, 8), (branch(10, 11, 12, answer=1), branch(13, 14, 15, 16, 17, 18, 19, 20, 21, answer=6))),
    Tree((), (), (branch(40, 41, 42, 43, 44, 45, answer=2),)),
    Tree(("b",), (3, 9), tuple(branch(30 + n, 31, 32 + n, answer=2) for n in range(4))),
]


def twins(config: PretrainedConfig) -> tuple[Any, Any]:
    """A language model for trees, and the same with the attention it came with."""
    torch.manual_seed(1)
    # A model keeps its configuration, and in it which attention it has.
    ours = AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation=attention.NAME)
    stock = AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation="eager")
    stock.load_state_dict(ours.state_dict())
    return ours.eval(), stock.eval()


def build(name: str, tiny: Path) -> Built:
    """Processor and model of one family; `tiny` is the folder of a tiny LLaVA, whose tokenizer all have."""
    processor: Any = load_processor(tiny)
    if name == "llava":
        return processor, load_model(tiny)
    # SmolVLM's processor wants it for videos' time stamps alone.
    smolvlm_processing.num2words = str  # type: ignore[attr-defined]
    torch.manual_seed(1)
    processor, model = BUILT[name](processor.tokenizer)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return processor, model


NAMES = ("llava", *BUILT)
ONLY_WITH_PICTURES = {"PaliGemmaProcessor"}
"""Processors that take no conversation without a picture."""


@dataclass(frozen=True)
class Case:
    """The same conversations as trees, and each alone."""

    trees: list[Tree]
    alone: list[tuple[dict[str, Tensor], Tensor]]
    """What the processor itself makes of each, and which of its tokens [L] are learnt."""


def case(processor: Any, folder: Path) -> Case:
    """All of `TALKS` about all of `SHOWN`, and where the processor takes them, about nothing; pictures go below `folder`."""
    shown: list[list[Image.Image]] = noise()
    if type(processor).__name__ not in ONLY_WITH_PICTURES:
        shown += [[]] * len(TALKS)
    trees, alone = [], []
    for number, (digests, pictures) in enumerate(zip(stored(folder, shown), shown, strict=True)):
        # Without a picture no prefix is shared: a tree for each conversation.
        talks = TALKS if pictures else TALKS[number - len(SHOWN) :][:1]
        tree, rows = planted(processor, digests, pictures, talks)
        trees.append(tree)
        alone += rows
    return Case(trees, alone)


def planted(
    processor: Any, digests: tuple[str, ...], pictures: Sequence[Image.Image], talks: Sequence[list[tuple[str, str]]]
) -> tuple[Tree, list[tuple[dict[str, Tensor], Tensor]]]:
    """`talks` about `pictures`: as `render` makes a tree of them, and as the processor gives each."""
    chat = Chat(processor, {processor.tokenizer.eos_token_id})
    turns = [[turn for asked, said in talk for turn in (Turn("user", asked), Turn("assistant", said))] for talk in talks]
    turns = [[Turn("user", IMAGE * len(pictures) + first.text), *rest] for first, *rest in turns]
    proved = []
    for one in prove_all(chat, [(one, [picture.size for picture in pictures]) for one in turns]):
        assert isinstance(one, Tokens), one
        proved.append(one)
    cut = proved[0].image_end
    branches = tuple(Branch("s", 0, "t", "short", one.ids[cut:], one.supervised[cut:]) for one in proved)
    each = suffixed if type(processor).__name__ == "PaliGemmaProcessor" else whole
    rows = [row for one, tokens in zip(turns, proved, strict=True) for row in each(processor, one, pictures, tokens)]
    return Tree(digests, proved[0].ids[:cut], branches), rows


def whole(
    processor: Any, turns: Sequence[Turn], pictures: Sequence[Image.Image], tokens: Tokens
) -> list[tuple[dict[str, Tensor], Tensor]]:
    """A conversation as the processor writes it."""
    given = processor.apply_chat_template(
        [carrying(turns, pictures)], tokenize=True, return_dict=True, processor_kwargs={"return_tensors": "pt"}
    )
    # SmolVLM's gives lists where there is no picture.
    return [({name: torch.as_tensor(one) for name, one in given.items()}, torch.tensor(tokens.supervised))]


def suffixed(
    processor: Any, turns: Sequence[Turn], pictures: Sequence[Image.Image], tokens: Tokens
) -> list[tuple[dict[str, Tensor], Tensor]]:
    """For each answer the prompt, and the answer as its suffix: so transformers has a PaliGemma tuned."""
    rows = []
    for place, turn in enumerate(turns):
        if turn.role == "assistant":
            prompt = processor.apply_chat_template(carrying(turns[:place], pictures), add_generation_prompt=True)
            given = processor(text=[prompt], images=[list(pictures)], suffix=[turn.text], return_tensors="pt")
            del given["labels"]
            rows.append((dict(given), given["token_type_ids"][0].bool()))
    return rows


def carrying(turns: Sequence[Turn], pictures: Sequence[Image.Image]) -> list[dict[str, Any]]:
    """`turns` as messages, the first with the pictures themselves."""
    messages: list[dict[str, Any]] = [
        {"role": turn.role, "content": [{"type": "text", "text": turn.text.replace(IMAGE, "")}]} for turn in turns
    ]
    messages[0]["content"][:0] = [{"type": "image", "image": picture} for picture in pictures]
    return messages


def noise() -> list[list[Image.Image]]:
    """Pictures of `SHOWN`; no two tiles of them are alike."""
    chance = random.Random(3)
    return [[Image.frombytes("RGB", size, chance.randbytes(3 * size[0] * size[1])) for size in sizes] for sizes in SHOWN]


def stored(folder: Path, pictures: Sequence[Sequence[Image.Image]]) -> list[tuple[str, ...]]:
    """Write `pictures` to a store below `folder`; their digests."""
    with ImageWriter(folder / "s", shard_mib=1) as writer:
        return [tuple(writer.add(ppm(picture)) for picture in shown) for shown in pictures]


def ppm(picture: Image.Image) -> bytes:
    """The bytes of a picture file."""
    return b"P6 %d %d 255\n" % picture.size + picture.tobytes()


def of_batch(model: Any, inputs: dict[str, Any]) -> tuple[float, Tensor]:
    """Loss, summed over supervised tokens, and gradient of what the collator laid."""
    given = {name: one for name, one in inputs.items() if name not in ("labels", "weights")}
    return learnt(model, [(model(**given).logits, inputs["labels"])])


def of_rows(model: Any, alone: Sequence[tuple[dict[str, Tensor], Tensor]]) -> tuple[float, Tensor]:
    """The same of each conversation alone."""
    return learnt(
        model,
        ((model(**given).logits[0, :-1][said[1:]], given["input_ids"][0, 1:][said[1:]]) for given, said in alone),
    )


def learnt(model: Any, asked: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, Tensor]:
    """Loss and gradient of some logits and labels, one after the other."""
    model.zero_grad(set_to_none=True)
    total = 0.0
    for logits, labels in asked:
        loss = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total, torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])
