"""What a model demands of the machine, told before anything of it is built: memory to train in, disk to save to."""

from __future__ import annotations

from flows.supervision.remedies import SHORTEST_WINDOW
from nanogpt.config import Config
from nanogpt.measure import memory
from nanogpt.measure.sizes import FLOAT32, parameters

GIB = 2**30
PROCESS_BYTES = int(0.35 * GIB)  # of Python with torch, before the first tensor (measured 0.31 to 0.34)
CHECKPOINTS = 6  # three last, the best, the one before the cool-down, and one being written
USUAL_ALPHABET = 100  # characters of a text that nobody has read yet
SHARE_OF_THE_MACHINE = 0.7  # that a training may take of a memory that everything else needs too
SHARE_OF_A_DEVICE = 0.9  # and of an accelerator's own, or of what Metal calls its working set


def room(device: str, memory_bytes: int) -> int:
    """Bytes that a training may take on `device`."""
    return int(memory_bytes * (SHARE_OF_THE_MACHINE if device == "cpu" else SHARE_OF_A_DEVICE))


def with_vocabulary(rung: Config, alphabet_size: int = USUAL_ALPHABET) -> Config:
    """The model with the vocabulary that its tokenizer will have, as near as is known."""
    characters, byte_pairs = alphabet_size + 1, rung.data.bpe_vocab_size
    sizes = {"char": characters, "bpe": byte_pairs, "gpt2": 50257, "auto": max(characters, byte_pairs)}
    return rung.with_changes({"model.vocab_size": sizes[rung.data.tokenizer]})


def memory_needed(rung: Config, device: str, micro_batch: int | None = None) -> int:
    """Bytes at the peak of training `rung`, vocabulary known, in the smallest precision that its settings allow."""
    allowed = {True: ["bfloat16"], False: ["float32"], "auto": ["float32", "bfloat16"]}
    precisions = allowed.get(rung.device.mixed_precision, [rung.device.mixed_precision])
    least = min(memory.predict(rung, micro_batch=micro_batch, precision=type, device=device).total
                for type in precisions)  # fmt: skip
    return least + (PROCESS_BYTES if device == "cpu" else 0)


def fitted(rung: Config, device: str, room_bytes: int, windows: bool = False) -> Config | None:
    """`rung` made smaller() until it is predicted to fit, the effective batch as it was; None if it never does."""
    tried: Config | None = rung
    while tried is not None and memory_needed(tried, device) > room_bytes:
        tried = smaller(tried, windows)
    return tried


def smaller(rung: Config, windows: bool = False) -> Config | None:
    """The same training with less memory: half the micro-batch; at one sequence, blocks that are computed again; and
    with `windows` half the longest window, down to SHORTEST_WINDOW tokens. None when nothing is left."""
    training = rung.training
    sizes = halved(training.batch_size, training.batch_size * training.gradient_accumulation)
    if len(sizes) > 1:
        return split(rung, sizes[1])
    if not rung.device.gradient_checkpointing:
        return rung.with_changes({"device.gradient_checkpointing": True})
    if windows and rung.context % 2 == 0 and rung.context // 2 >= SHORTEST_WINDOW:
        return rung.with_changes({"device.longest_window": rung.context // 2})
    return None


def split(rung: Config, micro_batch: int) -> Config:
    """`rung` in passes of `micro_batch` sequences, a divisor of the step's."""
    sequences = rung.training.batch_size * rung.training.gradient_accumulation
    return rung.with_changes({"training.batch_size": micro_batch,
                              "training.gradient_accumulation": sequences // micro_batch})  # fmt: skip


def how_it_fits(rung: Config) -> str:
    """Of a rung that was made smaller, in words."""
    told = [f"micro-batches of {rung.training.batch_size}"]
    if rung.device.gradient_checkpointing:
        told.append("blocks computed again")
    if rung.context < rung.model.block_size:
        told.append(f"windows of {rung.context} tokens")
    return ", ".join(told)


def halved(micro_batch: int, sequences: int) -> list[int]:
    """`micro_batch` and the smaller ones to try, each a divisor of `sequences`: about a half of the one before."""
    sizes = [micro_batch]
    while sizes[-1] > 1:
        sizes.append(max(size for size in range(1, sizes[-1] // 2 + 1) if sequences % size == 0))
    return sizes


def disk_needed(rung: Config) -> int:
    """Bytes of a training's checkpoints, vocabulary known: weights and optimizer in float32."""
    counts = parameters(rung.model)
    by_muon = counts.matrices if rung.training.optimizer == "muon" else 0
    return CHECKPOINTS * FLOAT32 * (3 * counts.total - by_muon)
