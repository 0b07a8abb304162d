"""What bench.data compares with: python -m bench.data_contenders tiktoken|datasets TEXTS PROCESSES TOKENIZER FOLDER

The text is the same, and so are the ids. One line of JSON says how many bytes and ids, and the seconds of the work
itself, imports and set-up aside.

tiktoken: encode_ordinary_batch() on texts that lie in memory, so many threads. Nothing is read, decided or written.
datasets: load_dataset("json") and .map() with the tokenizers library, so many processes; its ids are written as Arrow.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.made_text import read_documents

AT_ONCE = 20_000  # documents: about 50 MB


def tiktoken_batches(texts: Path, processes: int, tokenizer: Path, folder: Path) -> dict[str, float]:
    """TIKTOKEN_CACHE_DIR names GPT-2's vocabulary."""
    import tiktoken

    encoding = tiktoken.get_encoding("gpt2")
    size = ids = seconds = 0
    documents = read_documents(texts)
    while batch := list(itertools.islice(documents, AT_ONCE)):
        began = time.perf_counter()
        encoded = encoding.encode_ordinary_batch(batch, num_threads=processes)
        seconds += time.perf_counter() - began
        size += sum(len(text.encode()) for text in batch)
        ids += sum(map(len, encoded))
    return {"bytes": size, "tokens": ids, "seconds": seconds}


def datasets_map(texts: Path, processes: int, tokenizer: Path, folder: Path) -> dict[str, float]:
    from datasets import load_dataset
    from tokenizers import Tokenizer

    learned = Tokenizer.from_file(str(tokenizer))

    def encode(batch: dict[str, list[str]]) -> dict[str, list[object]]:
        return {"ids": [found.ids for found in learned.encode_batch(batch["text"])]}

    began = time.perf_counter()
    files = sorted(map(str, texts.glob("*.jsonl")))
    read = load_dataset("json", data_files=files, split="train", cache_dir=str(folder))
    encoded = read.map(encode, batched=True, num_proc=processes, remove_columns=["text"])
    seconds = time.perf_counter() - began
    ids = sum(len(chunk.values) for chunk in encoded.data.column("ids").chunks)
    return {"bytes": sum(len(text.encode()) for text in read["text"]), "tokens": ids, "seconds": seconds}


CONTENDERS: dict[str, Callable[[Path, int, Path, Path], dict[str, float]]] = {
    "tiktoken": tiktoken_batches,
    "datasets": datasets_map,
}


def main() -> None:
    kind, texts, processes, tokenizer, folder = sys.argv[1:]
    print(json.dumps(CONTENDERS[kind](Path(texts), int(processes), Path(tokenizer), Path(folder))))


if __name__ == "__main__":
    main()
