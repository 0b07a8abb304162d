"""What can happen to a training, as one table: symptom, how it is recognised, remedies in order with their limits.

RemedyChooser decides by it, docs/remedies.md shows it, and the troubleshooting guide of a run takes its words from it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from nanogpt import faults
from nanogpt.config import Config
from nanogpt.fit import Fit
from nanogpt.process.endings import ABORTED, CRASHED, KILLED, STALL

IN_A_ROW = 12  # remedies for one model without progress between them; more means that something else is wrong
IN_ALL = 60  # for one model in one session, progress or not: a night of a fault every ten minutes


@dataclass(frozen=True)
class Remedy:
    name: str
    limit: int  # times in a row for one symptom before the next remedy of its row

    def describe(self) -> str:
        return f"{self.name} ({'once' if self.limit == 1 else f'{self.limit} times'})"


FRESH_PROCESS = "continue from the last checkpoint in a fresh process"
RETRY = Remedy(FRESH_PROCESS, 1)
RETRY_TWICE = Remedy(FRESH_PROCESS, 2)
RETRY_OFTEN = Remedy(FRESH_PROCESS, 8)
HALVE = Remedy("halve the micro-batch, double the accumulation", 16)
RECOMPUTE = Remedy("compute blocks again in the backward pass (gradient checkpointing)", 1)
SHORTEN = Remedy("halve the windows, the same tokens in a step", 16)
CPU = Remedy("continue in float32 on the CPU", 1)
REMAKE = Remedy("make the damaged data again", 2)
MAKE_ROOM = Remedy("remove what this run can spare, else wait for room", 8)

FOR_MEMORY = (HALVE, RECOMPUTE, SHORTEN)  # the steps down of nanogpt.fit.Fit, in its order


@dataclass(frozen=True)
class Row:
    """`recognised`, `by_hand`: sentences for a person; `by_hand` is what to do when the remedies are used up."""

    recognised: str
    remedies: tuple[Remedy, ...]
    by_hand: str

    @property
    def in_order(self) -> str:
        """The remedies with their limits, in words."""
        return "; ".join(remedy.describe() for remedy in self.remedies) or "none: it stops with the reason"


TABLE: dict[str, Row] = {
    faults.OUT_OF_MEMORY: Row(
        "The error message of torch, CUDA, Metal, the CPU's allocator or the system, also at an abort; or SIGKILL "
        "while less than 5 % of memory was free, while the kernel counted one more out-of-memory kill, or while macOS "
        "wrote a report of one or called the memory pressure critical.",
        FOR_MEMORY,
        "The next smaller model takes its place, for the rest of this run; the next run begins with what fitted. Use "
        "more memory, or a model with a smaller n_embd, n_layer or block_size.",
    ),
    faults.DEVICE: Row(
        "An error of CUDA or Metal, an operation that the device lacks, loss or gradients that differ from the CPU's "
        "at the start, a command buffer's error on stderr, or an abort while an accelerator computed.",
        (RETRY, CPU),
        "Stay on the CPU with --set device.type=cpu; the model's log has the device's error message.",
    ),
    faults.NON_FINITE: Row(
        "Three bad steps in a row, or more than five in a hundred, after three returns to a healthy checkpoint.",
        (CPU,),
        "Lower training.learning_rate and training.muon_learning_rate.",
    ),
    STALL: Row(
        "No heartbeat for five minutes, or for twenty steps if that is longer; the stacks are in the model's log.",
        (RETRY, CPU),
        "Read the stacks at the end of the model's log.",
    ),
    KILLED: Row(
        "SIGKILL, and no evidence that memory was short.",
        (RETRY_OFTEN,),
        "Something on the machine kills the trainer; the system's log may say what.",
    ),
    ABORTED: Row(
        "A signal that the process caused itself, such as SIGSEGV, SIGABRT or SIGBUS, on the CPU.",
        (RETRY_TWICE, CPU),
        "Test the memory, and try another version of torch.",
    ),
    CRASHED: Row(
        "An exit code other than those of the trainer, and no recorded outcome.",
        (RETRY_TWICE, CPU),
        "Read the end of the model's log.",
    ),
    faults.UNKNOWN: Row(
        "Any other error.",
        (RETRY_TWICE, CPU),
        "Read the end of the model's log.",
    ),
    "stopped": Row(
        "Somebody else sent the trainer SIGTERM or SIGINT; it saved.",
        (RETRY_TWICE,),
        "Stop the run itself (Ctrl-C), not its trainer.",
    ),
    faults.CORRUPT_FILE: Row(
        "A file that is missing or has another digest. Files are checked at each start and after each crash.",
        (REMAKE,),
        "Test the disk and the memory.",
    ),
    faults.DISK_FULL: Row(
        "No space, an exhausted quota, or a limit on the size of files.",
        (MAKE_ROOM,),
        "Free space: old runs are the folders of checkpoints/ and data/.",
    ),
    faults.READ_ONLY: Row(
        "A folder of the run cannot be written, or is no longer there.",
        (),
        "Mount it again, or repair its permissions; then the same command continues.",
    ),
    faults.MEDIUM: Row(
        "The system reports an input or output error (EIO).",
        (RETRY,),
        "The disk or its cable is failing: copy the run elsewhere, and continue there with --workspace.",
    ),
    "user_error": Row("Exit code 2: a mistake in the command or the settings.", (), "Correct what the message names."),
}

# What the trainer mends by itself: the names of its events, and what it did.
MENDED_BY_THE_TRAINER = {
    "out_of_memory": (faults.OUT_OF_MEMORY, HALVE.name),
    "skipped": ("bad_step", "the step was not taken, its data passed over"),
    "rewound": (faults.NON_FINITE, "back to a healthy checkpoint, half the learning rate, other data from there"),
    "corrupt checkpoint": (faults.CORRUPT_FILE, "set aside; the checkpoint before it is taken"),
    "warmed again": (faults.CORRUPT_FILE, "continued from the cooled weights, with the learning rate raised again"),
    "checkpoint missing": (faults.CORRUPT_FILE, "a new one is saved"),
    "restored": (faults.CORRUPT_FILE, "the rows are written anew from the checkpoint, which keeps them"),
    "rewritten": (faults.CORRUPT_FILE, "the rows are written again, as the training had written them"),
    "unreadable": (faults.CORRUPT_FILE, "set aside as *.bad, a new file begun"),
    "not compiled": ("compiler", "eager instead"),
}


@dataclass
class RemedyChooser:
    """Chooses the remedy for each symptom of one model's training, and remembers what was tried."""

    config: Config
    given: Counter[tuple[str, Remedy]] = field(default_factory=Counter)  # since there was progress
    in_all: int = 0

    def recovered(self) -> None:
        """Training came further since the last remedy: what comes next is a new fault, not the old one again."""
        self.given.clear()

    def choose(self, symptom: str, fit: Fit) -> tuple[Remedy, Fit] | None:
        """The remedy and how the next attempt is computed, or None when nothing is left to try."""
        if symptom not in TABLE or self.given.total() >= IN_A_ROW or self.in_all >= IN_ALL:
            return None
        for remedy in TABLE[symptom].remedies:
            changed = self._apply(remedy, fit)
            if changed is not None and self.given[symptom, remedy] < remedy.limit:
                self.given[symptom, remedy] += 1
                self.in_all += 1
                return remedy, changed
        return None

    def _apply(self, remedy: Remedy, fit: Fit) -> Fit | None:
        """The fit after `remedy`, or None where it would change nothing."""
        if remedy in FOR_MEMORY:
            smaller = fit.smaller(self.config.training.sequences_per_step, self.config.model.block_size)
            return smaller if smaller is not None and _step_down(fit, smaller) is remedy else None
        if remedy is CPU:
            on_the_cpu = replace(fit, device="cpu", precision="float32")
            return on_the_cpu if on_the_cpu != fit else None
        return fit


def _step_down(before: Fit, after: Fit) -> Remedy:
    """Which remedy leads from one fit to the next smaller."""
    if after.micro_batch != before.micro_batch:
        return HALVE
    return RECOMPUTE if after.gradient_checkpointing != before.gradient_checkpointing else SHORTEN


def as_markdown() -> str:
    """The table as docs/remedies.md has it."""
    lines = ["| symptom | how it is recognised | remedies, in order | then |", "|---|---|---|---|"]
    lines += [f"| `{symptom}` | {row.recognised} | {row.in_order} | {row.by_hand} |" for symptom, row in TABLE.items()]
    return "\n".join(lines) + "\n"
