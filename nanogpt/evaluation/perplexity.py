"""How well a model predicts a whole split: loss, perplexity, bits per byte. No random batches, no sampling error."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from nanogpt.data.data_loader import IGNORED, windows
from nanogpt.data.shard_file import Tokens
from nanogpt.data.shards import open_split, read_manifest
from nanogpt.faults import NonFiniteError, UserError
from nanogpt.results.evaluation import NANOGPT_WINDOW, Evaluation


@torch.no_grad()
def evaluate(
    model: torch.nn.Module,
    tokens: Tokens,
    window: int,
    bytes_in_split: int,
    device: str = "cpu",
    batch_size: int | None = None,
) -> Evaluation:
    """Predict every token of `tokens` (T,) but the first, in non-overlapping windows, the short last one included.

    `model(inputs, targets)` returns (anything, mean cross-entropy over targets that are not -1). Precision is the
    caller's (autocast around the call). The model's training mode is put back afterwards.
    `batch_size` counts windows; by default about 8,192 tokens are in flight.
    Raises UserError when there is nothing to predict, NonFiniteError when the loss is not a number.
    """
    if len(tokens) < 2:
        raise UserError(f"evaluation needs at least 2 tokens, found {len(tokens)}")
    was_training = model.training
    model.eval()
    nats, predicted = 0.0, 0
    for inputs, targets in windows(tokens, window, batch_size or max(1, 8192 // window)):
        _, loss = model(inputs.to(device), targets.to(device))
        count = int((targets != IGNORED).sum())
        nats += float(loss) * count
        predicted += count
    model.train(was_training)
    loss = nats / predicted
    if not math.isfinite(loss):
        raise NonFiniteError("the loss is NaN or infinite: the model computes no probabilities")
    return Evaluation(
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),  # beyond it a float ends
        bits_per_byte=loss / math.log(2) * len(tokens) / bytes_in_split,
        tokens=predicted,
        window=window,
    )


def evaluate_split(
    model: torch.nn.Module, data_folder: Path, split: str, window: int, device: str = "cpu"
) -> Evaluation:
    """`evaluate` on one split of a data folder. Raises UserError, CorruptFileError as open_split does."""
    opened = open_split(data_folder, split)
    return evaluate(model, opened.tokens, window, opened.bytes, device)


def nanogpt_measure(model: torch.nn.Module, data_folder: Path, device: str = "cpu") -> float:
    """Loss by nanoGPT's own yardstick for characters: windows of 64 over its validation split, the last tenth of the
    text.

    With the default fractions that tenth is our val and test together. nanoGPT draws 200 random batches from it; this
    covers both whole. Raises UserError for a data folder that is not of characters.
    """
    kind = read_manifest(data_folder).tokenizer.name
    if kind != "char":
        raise UserError(f"{data_folder}: nanoGPT's measure is of characters, this data is of {kind} tokens")
    return mean_loss([evaluate_split(model, data_folder, split, NANOGPT_WINDOW, device) for split in ("val", "test")])


def mean_loss(parts: Sequence[Evaluation]) -> float:
    """Nats a token over several splits."""
    return sum(part.loss * part.tokens for part in parts) / sum(part.tokens for part in parts)
