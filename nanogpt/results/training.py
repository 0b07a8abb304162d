"""A training, while it works and when it has ended (nanogpt.training)."""

from __future__ import annotations

from dataclasses import dataclass, field

from nanogpt.results.text import TokenSplit


@dataclass(frozen=True)
class TrainingData:
    """data.json in a model's folder: what it learns from. Older versions wrote the first digest alone.

    manifest_sha256: shards.identity() of the data folder; text_sha256: of the cleaned text.
    """

    manifest_sha256: str
    text_sha256: str | None = None
    splits: dict[str, TokenSplit] = field(default_factory=dict)


ENDINGS = {  # why a training ended, in the trainer's word and in a person's
    "max_iters": "all its steps were done",
    "out of time": "its time was up",
    "early stopping": "the validation loss no longer fell",
}


@dataclass(frozen=True)
class TrainingOutcome:
    """How a training ended: status "finished" (for `reason`) or "stopped"; sha256 is of the final weights' file.

    tokens: all that were seen, those of skipped steps and of steps that a rewind took back as well; what is repeated
    after an interruption counts once.
    """

    status: str
    reason: str
    step: int
    seconds: float
    tokens: int
    best_val_loss: float | None
    best_step: int
    best_is_average: bool  # best/ has the moving average of the weights instead of the weights of its step
    skipped: int  # bad steps that were not taken
    rewinds: int  # since what computes was last changed
    final_val_loss: float | None
    sha256: str | None
    parameters: int
    tokens_per_second: float
    peak_memory_bytes: int
    device: str
    precision: str
    micro_batch: int  # windows in one forward and backward pass, at last
    context: int  # tokens in the longest window

    @property
    def why(self) -> str:
        """The reason as a person would say it."""
        return ENDINGS.get(self.reason, self.reason)


@dataclass(frozen=True)
class TrainingFailure:
    """What outcome.json says of a training that failed: a symptom of nanogpt.faults and the error's words."""

    symptom: str
    message: str
    needed: int | None = None  # bytes of disk that there was no room for
    status: str = "failed"


@dataclass(frozen=True)
class Heartbeat:
    """The latest sign of life of a trainer. Figures are None until they are known."""

    step: int = 0
    expected_steps: int = 0  # how many it will make in all; 0 while nobody knows
    activity: str = ""
    time: float = 0.0  # seconds since the epoch
    seconds: float = 0.0  # of training so far
    loss: float | None = None
    val_loss: float | None = None
    tokens_per_second: float | None = None
    memory_bytes: int | None = None
    eta_seconds: float | None = None
    is_estimate: bool = False  # expected_steps, of a training that its clock ends


@dataclass(frozen=True)
class TrainerEvent:
    """A row of events.jsonl: something that happened in a training, and what was done about it."""

    event: str
    step: int
    message: str
    time: float = 0.0
    micro_batch: int | None = None  # of "out_of_memory": what it is now
    steps_lost: int = 0
    seconds_lost: float = 0.0
