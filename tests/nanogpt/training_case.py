"""A training so small that a test can run it many times: the data folder, the configuration, what came out."""

from pathlib import Path

from nanogpt.config import Config, DataConfig
from nanogpt.data import preprocessing, shards
from nanogpt.training.metrics import read_rows

TEXT = "".join(f"the {n} sheep and {n * 7 % 13} goats went over hill {n % 5}.\n" for n in range(400))


def make_data(folder: Path, text: str = TEXT) -> Path:
    """A character-level data folder."""
    source = folder / "text.txt"
    folder.mkdir(parents=True, exist_ok=True)
    source.write_text(text)
    preprocessing.prepare([source], folder / "text", DataConfig())
    shards.tokenise(folder / "text", "char", folder / "char", DataConfig())
    return folder / "char"


def tiny(**training) -> Config:
    """Two layers of 16, dropout on, checkpoints and evaluations every 8 and 10 of 24 steps, float32, one thread."""
    settings = dict(
        batch_size=4, gradient_accumulation=1, max_iters=24, warmup_iters=3, eval_interval=10, sample_interval=0,
        log_interval=1, checkpoint_interval=8,
    )  # fmt: skip
    return Config(
        name="tiny",
        model=dict(n_layer=2, n_head=2, n_embd=16, block_size=16, dropout=0.1),
        training={**settings, **training},
        device=dict(type="cpu", mixed_precision=False, threads=1),
    )


def losses(folder: Path) -> list[tuple]:
    """What metrics.jsonl says about the mathematics; times and memory differ between runs."""
    return [
        (row["kind"], row["step"], row.get("loss"), row.get("grad_norm"), row.get("learning_rate"),
         row.get("val_loss"), row.get("train_loss"), row.get("best"))
        for row in read_rows(folder / "metrics.jsonl")
    ]  # fmt: skip


def events(folder: Path, name: str) -> list[dict]:
    """The rows of events.jsonl of that name."""
    return [row for row in read_rows(folder / "events.jsonl") if row["event"] == name]
