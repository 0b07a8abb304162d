"""How good the weights are while they are trained: the validation loss, and what the model writes."""

from __future__ import annotations

from collections.abc import Callable

import torch

from nanogpt import device as devices
from nanogpt.data.data_loader import IGNORED, windows
from nanogpt.data.shards import Split
from nanogpt.inference.engine import Engine
from nanogpt.model.gpt import GPT
from nanogpt.training.compute import Computing
from nanogpt.training.stopping import StopRequest

TOKENS_AT_ONCE = 8192  # in an evaluation's forward pass
SAMPLE_TOKENS = 200


class Judge:
    """Reads the model and changes nothing of its training; a wish to stop ends what it does at once."""

    def __init__(
        self, model: GPT, tokenizer, split: Split, computing: Computing, context: int, stop: StopRequest,
        beat: Callable[[str], None],
    ):  # fmt: skip
        """context: the longest window that is trained, in tokens."""
        self.model, self.tokenizer, self.split, self.computing = model, tokenizer, split, computing
        self.context, self.stop, self.beat = context, stop, beat
        self.prompt = "\n" if tokenizer.reads("\n") else ""

    @torch.no_grad()
    def validation_loss(self, micro_batch: int) -> float:
        """Mean loss over the whole validation split in windows of `context`, nats a token.

        Four micro-batches at once surely fit into memory without their gradients.
        """
        rows = max(1, min(TOKENS_AT_ONCE // self.context, 4 * micro_batch))
        device, sums, count = self.computing.device, [], 0  # read at the end: a device never waits for the next batch
        self.model.eval()
        with self.stop.interruptible(), devices.autocast(device, self.computing.precision):
            for tokens, targets in windows(self.split.tokens, self.context, rows):
                summed, _ = self.model.loss_sum(tokens.to(device), targets.to(device))
                sums.append(summed)
                count += int((targets != IGNORED).sum())
                self.beat("evaluating")
            total = sum(torch.stack(sums).tolist())
        self.model.train()
        return total / count

    def sample(self, temperature: float, seed: int) -> str:
        """What the model writes now, from a generator of its own: training does not notice."""
        engine = Engine(self.model, self.tokenizer, self.computing.device, self.context)
        pieces = []
        with self.stop.interruptible():
            for piece in engine.generate(self.prompt, SAMPLE_TOKENS, temperature, seed=seed):
                pieces.append(piece)
                self.beat("writing a sample")
        self.model.train()
        return "".join(pieces)
