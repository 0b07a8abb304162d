"""A training so small that a test can run it many times: the data folder, the configuration, what came out."""

import io
import math
from pathlib import Path

import torch

from nanogpt.config import Config, DataConfig, save_config
from nanogpt.corpus import preparation, tokenising
from nanogpt.results.training import TrainingOutcome
from nanogpt.training.record.metrics import read_rows
from nanogpt.training.step import Stepper
from nanogpt.training.stopping import StopRequest
from nanogpt.training.trainer import train
from nanogpt.weights import checkpoint

UNLIKE = {"seconds", "tokens_per_second", "memory_bytes"}
TEXT = "".join(f"the {n} sheep and {n * 7 % 13} goats went over hill {n % 5}.\n" for n in range(400))


def make_data(folder: Path, text: str = TEXT, config: DataConfig | None = None) -> Path:
    """A character-level data folder."""
    config = config or DataConfig()
    source = folder / "text.txt"
    folder.mkdir(parents=True, exist_ok=True)
    source.write_text(text)
    preparation.prepare([source], folder / "text", config)
    tokenising.tokenise(folder / "text", "char", folder / "char", config)
    return folder / "char"


def tiny(**training) -> Config:
    """Two layers of 16, dropout on, checkpoints and evaluations every 8 and 10 of 24 steps, float32, one thread."""
    settings = dict(
        batch_size=4, gradient_accumulation=1, max_iters=24, warmup_iters=3, eval_interval=10, sample_interval=0,
        log_interval=1, checkpoint_interval=8, sample_temperatures=[0.8],
    )  # fmt: skip
    return Config(
        name="tiny",
        model=dict(n_layer=2, n_head=2, n_embd=16, block_size=16, dropout=0.1),
        training={**settings, **training},
        device=dict(type="cpu", mixed_precision=False, threads=1),
    )


def saved_case(folder: Path, **training) -> tuple[Path, Path]:
    """(configuration file, data folder)."""
    save_config(tiny(**training), folder / "tiny.yaml")
    return folder / "tiny.yaml", make_data(folder / "data")


def losses(folder: Path) -> list[tuple]:
    """(kind, step, what metrics.jsonl says about the mathematics); times and memory differ between runs."""
    rows = [{k: row[k] for k in row.keys() - UNLIKE} for row in read_rows(folder / "metrics.jsonl")]
    return [(row.pop("kind"), row.pop("step"), row) for row in rows]


def events(folder: Path, name: str) -> list[dict]:
    """The rows of events.jsonl of that name."""
    return [row for row in read_rows(folder / "events.jsonl") if row["event"] == name]


class StopAt(StopRequest):
    """A request to stop that comes after so many looks at `requested`: any boundary, between micro-batches as well."""

    def __init__(self, looks: int):
        super().__init__()
        self.looks = looks

    @property
    def requested(self) -> bool:
        self.looks -= 1
        return self.looks < 0

    @requested.setter
    def requested(self, value: bool) -> None:
        pass


def train_with_stops(config: Config, data: Path, folder: Path, looks: int, **options) -> TrainingOutcome:
    """Train in sessions that each are stopped after `looks` looks."""
    for _ in range(200):
        outcome = train(config, data, folder, stop=StopAt(looks), **options)
        if outcome.status == "finished":
            return outcome
    raise AssertionError("never finished")


def assert_same(outcome: TrainingOutcome, whole: TrainingOutcome, folder: Path, whole_folder: Path) -> None:
    """The same final weights, metrics and best weights, to the byte."""
    compared = "sha256", "step", "reason", "tokens", "best_val_loss", "best_step", "best_is_average"
    assert [getattr(outcome, name) for name in compared] == [getattr(whole, name) for name in compared]
    assert losses(folder) == losses(whole_folder)
    assert read_best(folder) == read_best(whole_folder)


def crash_in(monkeypatch, part: type, method: str, call: int) -> None:
    """Raise after the `call`-th call of a method of a part of the trainer has done its work."""
    real, calls = getattr(part, method), []

    def crashing(self, *args, **named):
        result = real(self, *args, **named)
        calls.append(1)
        if len(calls) == call:
            raise RuntimeError("crash")
        return result

    monkeypatch.setattr(part, method, crashing)


def read_best(folder: Path) -> tuple[int, dict]:
    manifest = checkpoint.read_manifest(folder / "best")
    return manifest["step"], manifest["files"]


def poison(monkeypatch, poisoned, value: float = math.nan) -> None:
    """Make the loss of the steps whose first sample is in `poisoned` wrong: bad data stays bad wherever it comes."""
    real = Stepper.forward_backward

    def compute(self, data, loss_scale):
        loss, norm = real(self, data, loss_scale)
        return (loss * value, norm) if data.cursor in poisoned else (loss, norm)

    monkeypatch.setattr(Stepper, "forward_backward", compute)


def through_a_file(state: dict) -> dict:
    """As a checkpoint keeps it: torch's safe format."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_equal_states(one, other) -> None:
    """Two state_dict() with the same keys, tensors and numbers."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal_states(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_equal_states(mine, theirs)
    else:
        assert one == other
