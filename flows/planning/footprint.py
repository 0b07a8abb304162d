"""What a model takes of the machine, known before anything of it is built: memory to train in, disk to save to."""

from __future__ import annotations

from collections.abc import Iterable

from nanogpt.config import Config
from nanogpt.fit import Fit
from nanogpt.measure import memory
from nanogpt.measure.sizes import FLOAT32, parameters
from nanogpt.tokenizers.vocabulary import USUAL_ALPHABET, likely_size
from nanogpt.units import MIB

STATES = 6.5  # three last, an interruption's, the one before the cool-down, and the room that is held for the next
WEIGHTS = 4  # best/, final/, the export, and one being written in place of an older
TEXTS = 5  # as it came, cleaned, in ids of two tokenizers (measured: 5.25 MiB for the 1.06 of tiny Shakespeare)
# While speeds are measured: trial checkpoints of 64 MiB, which want 16 more to be free, and Prefect's database of 5.
# After that the database grows by 6 MiB an hour of training; reports, logs and state take 1 (all measured).
OTHER_OUTPUT = 96 * MIB


def with_vocabulary(config: Config, alphabet_size: int = USUAL_ALPHABET) -> Config:
    """The model with the vocabulary that its tokenizer will have, as near as is known."""
    size = likely_size(config.data.tokenizer, config.data.bpe_vocab_size, alphabet_size)
    return config.with_changes({"model.vocab_size": size})


def memory_needed(config: Config, device: str) -> int:
    """Bytes at the peak of training `config`, vocabulary known, in the smallest precision that its settings allow."""
    asked = config.device.mixed_precision
    half = asked if isinstance(asked, str) else "bfloat16"
    precisions = {False: ["float32"], "auto": ["float32", "bfloat16"]}.get(asked, [half])
    least = min(memory.predict(config, precision=precision, device=device).total for precision in precisions)
    return least + (memory.PROCESS_BYTES if device == "cpu" else 0)


def fitted(config: Config, device: str, training_bytes: int, cut_windows: bool = False) -> Config | None:
    """`config` made smaller until it is predicted to fit, the effective batch as it was; None if it never does."""
    fit: Fit | None = Fit.of(config)
    while fit is not None:
        tried = fit.applied_to(config)
        if memory_needed(tried, device) <= training_bytes:
            return tried
        fit = _smaller(fit, config, cut_windows)
    return None


def smallest(config: Config, cut_windows: bool = False) -> Config:
    """`config` with as little memory as can be had."""
    fit = Fit.of(config)
    while (less := _smaller(fit, config, cut_windows)) is not None:
        fit = less
    return fit.applied_to(config)


def _smaller(fit: Fit, config: Config, cut_windows: bool) -> Fit | None:
    return fit.smaller(config.training.sequences_per_step, config.model.block_size if cut_windows else None)


def disk_needed(config: Config) -> int:
    """Bytes of a model's checkpoints and the copies of its weights at their most, vocabulary known, in float32
    (measured with micro: 54 MiB, where this gives 53)."""
    counts = parameters(config.model)
    by_muon = counts.matrices if config.training.optimizer == "muon" else 0
    state = 3 * counts.total - by_muon
    return int(FLOAT32 * (STATES * state + WEIGHTS * counts.total))


def disk_needed_by_run(models: Iterable[Config], text_bytes: int) -> int:
    """Bytes that a run writes that trains `models` on so much text, vocabularies known."""
    return sum(map(disk_needed, models)) + TEXTS * text_bytes + OTHER_OUTPUT
