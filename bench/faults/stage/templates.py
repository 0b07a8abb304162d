"""The smallest run that has everything: its settings, where its templates lie, and what the uninterrupted run came to.

120 steps without a clock, a checkpoint every 20 of them (the newest three are kept), two evaluations, two samples,
dropout, a warm-up and a cool-down that begins at step 48: two layers of 32, 8 windows of 32 characters.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.context.paths import CHECKOUT
from nanogpt.training.record.metrics import read_rows

MODEL = "tiny"
STEPS, CHECKPOINT_INTERVAL, EVAL_INTERVAL = 120, 20, 60
CONFIG = f"""\
model: {{preset: modern, n_layer: 2, n_head: 2, n_embd: 32, block_size: 32, dropout: 0.1}}
training: {{batch_size: 8, gradient_accumulation: 1, max_iters: {STEPS}, warmup_iters: 10, learning_rate: 0.01,
           eval_interval: {EVAL_INTERVAL}, sample_interval: {EVAL_INTERVAL}, sample_temperatures: [0.8],
           checkpoint_interval: {CHECKPOINT_INTERVAL}, log_interval: 1}}
data: {{tokenizer: char, bpe_vocab_size: 512}}
device: {{type: cpu, mixed_precision: false, threads: 1}}
"""
HALF = 75  # the step at which the half one is stopped: after an evaluation, in the cool-down, between checkpoints
SLOW_SECONDS = 4.0  # that the step after it takes: time to be stopped in, and less than Ctrl-C's grace of 8 s

Row = dict[str, Any]  # of metrics.jsonl, events.jsonl or the report's table of remedies


@dataclass(frozen=True)
class Reference:
    """What the uninterrupted run came to."""

    final_sha256: str
    best_sha256: str
    metrics: list[Row]
    seconds: dict[str, float]  # from each template to the end, undisturbed


class Templates:
    """A campaign's folder: text.txt, tiny.yaml, and a workspace for each template that has been made."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.text, self.config = folder / "text.txt", folder / f"{MODEL}.yaml"

    def workspace(self, template: str) -> Path:
        """Where the workspace of a template lies; read it, copy it, never run in it."""
        return self.folder / "templates" / template


def shared_data() -> Path | None:
    """The folder with a copy of the text that a run would download, if there is one."""
    folder = Path(os.environ.get("NANOGPT_TEST_DATA", CHECKOUT.parent / "shared" / "data"))
    return folder if (folder / "tinyshakespeare.txt").is_file() else None


def rows_of(folder: Path) -> list[Row]:
    """metrics.jsonl of a model's folder."""
    return list(read_rows(folder / "metrics.jsonl"))
