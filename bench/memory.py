"""Predicted against measured memory of real training steps, for the models of configs/, in a process of its own each.

python -m bench.memory                                   the shipped models up to medium_model: 4 GB
python -m bench.memory --models micro --micro-batch 24   one model, other micro-batch
python -m bench.memory --write                           and into docs/memory.md
"""

from __future__ import annotations

import argparse
from contextlib import closing
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from bench.this_machine import this_machine
from nanogpt.config import Config, load_config
from nanogpt.measure.batch_finder import SeparateProcess
from nanogpt.measure.memory import likely_precision, predict

ROOT = Path(__file__).parents[1]
MODELS = ("micro", "mini_model", "tiny_model", "compact_model", "small_model", "medium_model")
MICRO_BATCHES = {"small_model": 4, "medium_model": 1}  # less than configured: a step of medium takes minutes otherwise
OF_CHARACTERS = ("micro", "mini_model", "tiny_model")  # of tiny Shakespeare; a BPE of 1,024 for the larger ones
MIB = 2**20
DOCUMENT = ROOT / "docs" / "memory.md"
HEAD = """# Memory: predicted and measured

`nanogpt plan CONFIG` says how much memory a training takes, before anything is built. The formulae are in
`nanogpt/measure/memory.py`. This page compares each prediction with the peak of real steps (forward, backward, update;
no evaluation) in a fresh process, above what that process held after a step of a very small model. On the CPU this is
the resident set, on CUDA `max_memory_allocated`. "Recomputed" is `device.gradient_checkpointing: true`.

On Linux a process holds more than its tensors, because freed memory between tensors in use is not always used again.
`allocator` in the table of `nanogpt plan` is this share, fitted to rows whose activations are kept. A training that
recomputes them has no such share: it gives freed memory back at once, which makes a step on a CPU 9 to 30 % longer than
recomputing alone (mini_model, small_model; two cores of an EPYC of Zen 4). The heap grows for three or four steps, so
rows of one or two steps, from a machine that had no time for more, are too low.

The share of the libraries differs between processors (micro): 18 MiB with bfloat16 in hardware (AMX or AVX-512 BF16), 8
MiB with AVX2 alone, and 2 on an Intel Xeon that trains in float32. Where bfloat16 is emulated, attention copies to
float32; the formulae know that, but no row below was measured there unless the next line says so.

"""


def rows(names: list[str], micro_batch: int | None, seconds: float) -> list[dict]:
    """One row a model, precision, and activations kept or recomputed."""
    found = []
    for name in names:
        config = load_config(ROOT / "configs" / f"{name}.yaml")
        config = config.with_changes({"model.vocab_size": 66 if name in OF_CHARACTERS else 1024, "device.type": DEVICE})
        for precision in ("float32", "bfloat16"):
            for recompute in (False, True):
                at_once = micro_batch or MICRO_BATCHES.get(name, config.training.batch_size)
                row = measured(config, precision, recompute, at_once, seconds)
                print(line(row), flush=True)
                found.append(row)
    return found


def measured(config: Config, precision: str, recompute: bool, micro_batch: int, seconds: float) -> dict:
    mixed_precision = precision if precision != "float32" else False
    config = config.with_changes({"device.mixed_precision": mixed_precision,
                                  "device.gradient_checkpointing": recompute})  # fmt: skip
    predicted = predict(config, micro_batch=micro_batch, precision=precision, device=DEVICE,
                        newton_schulz=likely_precision(DEVICE))  # fmt: skip
    of_step = max(predicted.passes.total, predicted.moment("update").total)  # no evaluation is made
    with TemporaryDirectory() as folder, closing(SeparateProcess(Path(folder) / "log")) as separate:
        tried = separate(config, micro_batch, seconds)
    if tried.peak_memory_bytes is None:
        raise MemoryError(f"{config.name}, micro-batch {micro_batch}: {tried.result}")
    peak = tried.peak_memory_bytes
    return {
        "model": config.name, "tokens": f"{micro_batch} × {config.model.block_size}", "precision": precision,
        "activations": "recomputed" if recompute else "kept", "predicted": of_step, "measured": peak,
        "ratio": of_step / peak, "steps": tried.repeats,
    }  # fmt: skip


def line(row: dict) -> str:
    words = [row[name] for name in ("model", "tokens", "precision", "activations")]
    numbers = [f"{row['predicted'] / MIB:,.0f}", f"{row['measured'] / MIB:,.0f}", f"{row['ratio']:.2f}", row["steps"]]
    return f"| {' | '.join(map(str, [*words, *numbers]))} |"


def table(found: list[dict]) -> str:
    heading = "| model | tokens at once | precision | activations | predicted MiB | measured MiB | ratio | steps |"
    return "\n".join([heading, "|---|--:|---|---|--:|--:|--:|--:|", *map(line, found)])


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="NAME", help="files of configs/")
    parser.add_argument("--micro-batch", type=int, metavar="N", help="default: the configuration's, or less")
    parser.add_argument("--seconds", type=float, default=12.0, help="of steps; glibc's heap grows for three or four")
    parser.add_argument("--write", action="store_true", help="write docs/memory.md")
    arguments = parser.parse_args()
    found = rows(arguments.models, arguments.micro_batch, arguments.seconds)
    machine = f"{this_machine()}, {DEVICE}, {date.today().isoformat()}."
    if arguments.write:
        DOCUMENT.write_text(f"{HEAD}{machine}\n\n{table(found)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
