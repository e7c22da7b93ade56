"""Tiny random models of every family that may share a prefix, each with its own processor.

Only the video half of a processor is left out: it needs torchvision.
"""

import inspect
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2VLImageProcessorPil,
    SiglipVisionConfig,
)

from stages.corpus.example import IMAGE, Turn
from stages.corpus.images import ImageWriter
from stages.models.loading import load_model, load_processor
from stages.models.plan import apply_plan
from stages.models.sections import Lora, Parts
from stages.models.tiny import CHAT_TEMPLATE
from stages.trees import attention
from stages.trees.batch import separate_rows
from stages.trees.certificate import prove_all
from stages.trees.chat import Chat, Tokens
from stages.trees.families import SHARING, UNSENT, positions_of, unfed, why_not_shared
from stages.trees.tree import Branch, Tree
from stages.tuning.data import Collator
from stages.tuning.pixels import OF_WORDS, Pixels, beside

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
ANSWERED = {"What colour is it?": "red", "Is it round?": "No", "Count the shapes.": "one two"}
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
    tokenizer.add_tokens(list(tokens.values()), special_tokens=True)
    for name, token in tokens.items():
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    return tokenizer


def without_video(kind: type, **given: Any) -> Any:
    lenient = type(kind.__name__, (kind,), {"check_argument_for_proper_class": lambda *_: None})
    return lenient(video_processor=SimpleNamespace(num_frames=1, fps=1, model_input_names=[]), **given)


def llava_next(tokenizer: Any) -> tuple[Any, PreTrainedModel]:
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


def llava_onevision(tokenizer: Any) -> tuple[Any, PreTrainedModel]:
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


def idefics3(tokenizer: Any) -> tuple[Any, PreTrainedModel]:
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


def smolvlm(tokenizer: Any) -> tuple[Any, PreTrainedModel]:
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMImageProcessorPil, SmolVLMProcessor

    processor = without_video(
        SmolVLMProcessor,
        image_processor=SmolVLMImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16}),
        tokenizer=named(tokenizer, fake_image_token="<fake_token_around_image>", global_image_token="<global-img>"),
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


def internvl(tokenizer: Any) -> tuple[Any, PreTrainedModel]:
    from transformers import GotOcr2ImageProcessorPil, InternVLConfig, InternVLForConditionalGeneration, InternVLProcessor

    shown = "<IMG_CONTEXT>"
    processor = without_video(
        InternVLProcessor,
        image_processor=GotOcr2ImageProcessorPil(size={"height": 16, "width": 16}),
        tokenizer=named(
            tokenizer,
            start_image_token="<img>",
            end_image_token="</img>",
            context_image_token=shown,
            video_token="<video>",
        ),
        image_seq_length=1,
        chat_template=CHAT_TEMPLATE.replace(IMAGE, shown),
    )
    config = InternVLConfig(
        vision_config={**TOWER, "image_size": [16, 16], "patch_size": [8, 8]},
        text_config=Qwen2Config(**language(tokenizer)),
        image_token_id=processor.image_token_id,
    )
    return processor, InternVLForConditionalGeneration(config)


def qwen(name: str, vision: dict[str, Any], rope: dict[str, Any]) -> Callable[[Any], tuple[Any, PreTrainedModel]]:
    """A Qwen-VL, whose positions have three dimensions and whose pictures have as many tokens as their size wants."""

    def build(tokenizer: Any) -> tuple[Any, PreTrainedModel]:
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


OLD_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}}
BUILT: dict[str, Callable[[Any], tuple[Any, PreTrainedModel]]] = {
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
}


@pytest.fixture(params=sorted(SHARING))
def family(request: pytest.FixtureRequest, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, PreTrainedModel]:
    """Processor and model of one family."""
    # SmolVLM's processor wants it for videos' time stamps alone.
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", str)
    torch.manual_seed(1)
    processor: Any = load_processor(tiny_model)
    if request.param == "llava":
        return processor, load_model(tiny_model)
    return BUILT[request.param](processor.tokenizer)


@pytest.fixture(scope="module")
def noise() -> list[list[Image.Image]]:
    """Pictures of `SHOWN`; no two tiles of them are alike."""
    chance = random.Random(3)
    return [[Image.frombytes("RGB", size, chance.randbytes(3 * size[0] * size[1])) for size in sizes] for sizes in SHOWN]


def stored(folder: Path, pictures: list[list[Image.Image]]) -> list[tuple[str, ...]]:
    with ImageWriter(folder / "s", shard_mib=1) as writer:
        return [tuple(writer.add(ppm(picture)) for picture in shown) for shown in pictures]


def ppm(picture: Image.Image) -> bytes:
    return b"P6 %d %d 255\n" % picture.size + picture.tobytes()


@pytest.mark.parametrize("flat", [True, False])
def test_a_batch_about_pictures_of_several_shapes_has_the_loss_and_the_gradient_of_each_conversation_alone(
    family, noise, tmp_path, flat
):
    processor, model = family
    assert why_not_shared(model.config) is None
    model.eval()
    if flat:
        model.set_attn_implementation({"text_config": attention.NAME})
    apply_plan(
        model,
        Parts(vision_tower="full", connector="full", language_model="full"),
        Lora(rank=2, alpha=4, dropout=0.0),
    )
    chat, trees, alone = Chat(processor, {processor.tokenizer.eos_token_id}), [], []
    for digests, pictures in zip(stored(tmp_path, noise), noise, strict=True):
        turns = [(Turn("user", IMAGE * len(pictures) + asked), Turn("assistant", said)) for asked, said in ANSWERED.items()]
        sizes = [picture.size for picture in pictures]
        proved = prove_all(chat, [(one, sizes) for one in turns])
        assert all(isinstance(one, Tokens) for one in proved), proved
        cut = proved[0].image_end
        branches = [Branch("s", 0, "t", "short", one.ids[cut:], one.supervised[cut:]) for one in proved]
        trees.append(Tree(digests, proved[0].ids[:cut], tuple(branches)))
        for (asked, said), one in zip(ANSWERED.items(), proved, strict=True):
            shown = [{"type": "image", "image": picture} for picture in pictures]
            messages = [
                {"role": "user", "content": [*shown, {"type": "text", "text": asked}]},
                {"role": "assistant", "content": [{"type": "text", "text": said}]},
            ]
            given = processor.apply_chat_template([messages], tokenize=True, return_dict=True, return_tensors="pt")
            alone.append((given, torch.tensor(one.supervised)))

    inputs = Collator(Pixels(tmp_path, trees, processor), processor, flat, "token", positions_of(model))(
        [trees if flat else [row for tree in trees for row in separate_rows(tree)]]
    )
    labels, _ = inputs.pop("labels"), inputs.pop("weights")
    together = torch.nn.functional.cross_entropy(model(**inputs).logits, labels, reduction="sum")
    together.backward()
    model.set_attn_implementation({"text_config": "eager"})
    waited_for = [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None]
    batch_gradient = gradient(model)
    apart = 0.0
    for given, supervised in alone:
        logits, labels = model(**given).logits[0, :-1][supervised[1:]], given["input_ids"][0, 1:][supervised[1:]]
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        loss.backward()
        apart += loss.item()
    row_gradient = gradient(model)

    assert not waited_for
    assert together.item() == pytest.approx(apart, rel=1e-5)
    assert (batch_gradient - row_gradient).norm() <= 2e-6 * row_gradient.norm()


def gradient(model: torch.nn.Module) -> torch.Tensor:
    parts = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad(set_to_none=True)
    return torch.cat(parts)


def test_pictures_of_several_shapes_lie_in_a_batch_as_the_processor_itself_lays_them(family, noise, tmp_path):
    processor, _ = family
    trees = [Tree(digests, (1,), ()) for digests in stored(tmp_path, noise)]
    pixels = Pixels(tmp_path, trees, processor)
    text = [processor.image_token * len(pictures) for pictures in noise]

    at_once = processor(text=text, images=noise, padding=True, return_tensors="pt")

    joined = beside([pixels(tree.images) for tree in trees])
    assert joined.keys() == at_once.keys() - OF_WORDS
    for name, tensor in joined.items():
        assert torch.equal(tensor, at_once[name]), name


@pytest.mark.parametrize("name", UNSENT)
def test_a_model_that_is_told_in_inference_what_the_loop_does_not_send_is_refused_by_that_name(name):
    def forward(**_): ...

    wanted = [inspect.Parameter(one, inspect.Parameter.POSITIONAL_OR_KEYWORD) for one in ("input_ids", name)]
    forward.__signature__ = inspect.Signature(wanted)

    assert f"it wants {name}, which" in unfed(SimpleNamespace(forward=forward))
