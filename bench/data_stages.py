"""CPU seconds of each pass in one process: python -m bench.data_stages TEXTS OUT MIRROR, for bench.data."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from nanogpt.config import DataConfig
from nanogpt.corpus import pipeline
from nanogpt.sources.own_pieces import own_pieces
from nanogpt.tokenizers.making import make_tokenizer


def main() -> None:
    texts, out, mirror = map(Path, sys.argv[1:])
    config = DataConfig(source=str(texts), mirror=str(mirror))
    pieces = own_pieces(str(texts))
    marks: list[float] = []

    def mark(what: str, done: int, of: int) -> None:
        if done == of:
            marks.append(time.process_time())

    began = time.process_time()
    statistics = pipeline.prepare(pieces, out / "text", config, report=mark)
    decided = time.process_time()
    tokenizer = make_tokenizer("gpt2", [], out, config)
    began_ids = time.process_time()
    pipeline.tokenise(out / "text", tokenizer, out)
    fates = statistics.fates.fates
    print(json.dumps({
        "text_bytes": sum(path.stat().st_size for path in texts.glob("*.jsonl")),
        "documents": sum(count.documents for count in fates.values()),
        "pieces": len(pieces), "scan": marks[0] - began, "decide": decided - marks[0],
        "tokenise": time.process_time() - began_ids,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
