"""How good the weights are during training: the validation loss, and what the model writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from nanogpt import device as devices
from nanogpt.data.data_loader import IGNORED, windows
from nanogpt.data.shards import Split
from nanogpt.inference.engine import Engine
from nanogpt.model.attention import entropy
from nanogpt.model.gpt import GPT
from nanogpt.model.limits import TOKENS_AT_ONCE
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.training.numerics import Numerics
from nanogpt.training.stopping import StopRequest

SAMPLE_TOKENS = 200
ENTROPY_TOKENS, ENTROPY_WINDOW = 2048, 256  # of the validation split; its attention weights are 25 MB at 12 heads


@dataclass
class Validator:
    """Reads the model and changes nothing of its training; a request to stop ends what it does at once."""

    model: GPT
    tokenizer: Tokenizer
    split: Split
    numerics: Numerics
    context: int  # tokens in the longest window that is trained
    stop: StopRequest
    beat: Callable[[str], None]

    @torch.no_grad()
    def validation_loss(self, micro_batch: int) -> float:
        """Mean loss over the whole validation split in windows of `context`, nats a token."""
        device, sums, count = self.numerics.device, [], 0  # read at the end: a device never waits for the next batch
        self.model.eval()
        with self.stop.interruptible(), devices.autocast(device, self.numerics.precision):
            for tokens, targets in windows(self.split.tokens, self.context, rows_at_once(self.context, micro_batch)):
                summed, _ = self.model.loss_sum(tokens.to(device), targets.to(device))  # (rows, context) each
                sums.append(summed)
                count += int((targets != IGNORED).sum())
                self.beat("evaluating")
            total = sum(torch.stack(sums).tolist())
        self.model.train()
        return float(total / count)

    @torch.no_grad()
    def attention_entropy(self, micro_batch: int) -> list[float]:
        """Of each layer, nats: the mean over the heads and over the positions of the validation split's first windows.

        A plain number of how sharply the model looks; it falls as heads find what to look for. Reads, and draws
        nothing: the training goes on as without it. Empty where a layer shows no weights.
        """
        window = min(self.context, ENTROPY_WINDOW, len(self.split.tokens))
        count = max(1, min(ENTROPY_TOKENS, len(self.split.tokens)) // window)
        piece = torch.from_numpy(np.asarray(self.split.tokens[: count * window], dtype=np.int64)).view(count, window)
        device, sums = self.numerics.device, []
        self.model.eval()
        with devices.autocast(device, self.numerics.precision):  # short: a request to stop comes after it
            for rows in piece.split(rows_at_once(window, micro_batch)):
                with self.model.traced(keep=lambda weights: entropy(weights).mean(dim=(1, 2)).sum()) as trace:
                    self.model.hidden(rows.to(device))
                sums.append(trace.attention)
                self.beat("evaluating")
        self.model.train()
        return [float(torch.stack(layer).sum()) / count for layer in zip(*sums, strict=True)]

    def sample(self, temperature: float, seed: int) -> str:
        """What the model writes now, from a generator of its own: training does not notice."""
        engine = Engine.of_model(self.model, self.tokenizer, self.numerics.device, self.context)
        prompt, pieces = "\n" if self.tokenizer.reads("\n") else "", []
        with self.stop.interruptible():
            for piece in engine.generate(prompt, max_new_tokens=SAMPLE_TOKENS, temperature=temperature, seed=seed):
                pieces.append(piece)
                self.beat("writing a sample")
        self.model.train()
        return "".join(pieces)


def rows_at_once(context: int, micro_batch: int) -> int:
    """Windows in a forward pass of an evaluation; four micro-batches surely fit into memory without gradients."""
    return max(1, min(TOKENS_AT_ONCE // context, 4 * micro_batch))
