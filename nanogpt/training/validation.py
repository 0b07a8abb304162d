"""How good the weights are during training: the validation loss, and what the model writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from nanogpt import device as devices
from nanogpt.data.data_loader import IGNORED, windows
from nanogpt.data.shards import Split
from nanogpt.data.tokenizer import Tokenizer
from nanogpt.inference.engine import Engine
from nanogpt.model.gpt import GPT
from nanogpt.model.limits import TOKENS_AT_ONCE
from nanogpt.training.numerics import Numerics
from nanogpt.training.stopping import StopRequest

SAMPLE_TOKENS = 200


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
