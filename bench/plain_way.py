"""The plain way: `python bench/plain_way.py FOLDER WAY PROCESSES`, the script that bench/plain.py holds the data half against.

Written as many write it, with `datasets` and Pillow, and with nothing of this project imported. FOLDER holds `big/rows.json`
(Vision-Flan's rows), `big/images` and `data/base/model`; to FOLDER/plain go `rows.parquet` and the cache of `datasets`. WAY is
`load` (every picture is decoded to its last pixel), `verify` (Pillow's verify(), which reads headers) or `paths` (decoded,
but the Parquet names the pictures' files instead of holding their bytes).

The rows come from their file and not from `Dataset.from_dict`: what `map` makes of a set that lies in memory it keeps in
memory, in every process and once more on the way back, some 10 GiB for 20,000 rows. A set read from a file is mapped from
disk to disk.
"""

import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any

from datasets import load_dataset
from PIL import Image
from transformers import AutoProcessor


def main() -> None:
    """Read, look at every picture, drop rows seen before, tokenise, write."""
    folder, way, processes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    processor = AutoProcessor.from_pretrained(folder / "data" / "base" / "model")
    images = folder / "big" / "images"
    data = load_dataset(
        "json", data_files=str(folder / "big" / "rows.json"), split="train", cache_dir=str(folder / "plain" / "cache")
    )

    def read(batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
        content: list[bytes | None] = []
        digests: list[str] = []
        for name in batch["image"]:
            try:
                raw = (images / name).read_bytes()
                with Image.open(io.BytesIO(raw)) as shown:
                    if way == "verify":
                        shown.verify()
                    else:
                        shown.convert("RGB")
            except (OSError, SyntaxError):
                content.append(None)
                digests.append("")
                continue
            content.append(raw)
            digests.append(hashlib.sha256(raw).hexdigest())
        found: dict[str, list[Any]] = {"number": numbers, "sha256": digests}
        return found if way == "paths" else {**found, "bytes": content}

    def messages(talk: list[dict[str, str]]) -> list[dict[str, Any]]:
        said = []
        for turn in talk:
            words: list[dict[str, str]] = [{"type": "text", "text": turn["value"].replace("<image>", "").strip()}]
            if "<image>" in turn["value"]:
                words.insert(0, {"type": "image"})
            said.append({"role": "user" if turn["from"] == "human" else "assistant", "content": words})
        return said

    def tokens(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        talks = [messages(talk) for talk in batch["conversations"]]
        whole = [processor.apply_chat_template(talk, tokenize=False) for talk in talks]
        asked = [processor.apply_chat_template(talk[:1], tokenize=False, add_generation_prompt=True) for talk in talks]
        ids = processor.tokenizer(whole, add_special_tokens=False)["input_ids"]
        before = processor.tokenizer(asked, add_special_tokens=False)["input_ids"]
        labels = [[-100] * len(prompt) + one[len(prompt) :] for one, prompt in zip(ids, before, strict=True)]
        return {"input_ids": ids, "labels": labels}

    data = data.map(read, batched=True, batch_size=100, with_indices=True, num_proc=processes)
    data = data.filter(lambda digest: digest != "", input_columns="sha256")
    seen: set[tuple[str, str]] = set()
    fresh = []
    for number, (digest, talk) in enumerate(zip(data["sha256"], data["conversations"], strict=True)):
        key = (digest, json.dumps(talk))
        if key not in seen:
            fresh.append(number)
        seen.add(key)
    data = data.select(fresh)
    data = data.map(tokens, batched=True, num_proc=processes)
    data.to_parquet(folder / "plain" / "rows.parquet")


if __name__ == "__main__":
    main()
