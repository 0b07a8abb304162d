"""What can happen to a training, as one table: symptom, how it is recognised, remedies in order with their limits.

The Doctor treats by it, docs/remedies.md shows it, and the troubleshooting guide of a run takes its words from it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from nanogpt import faults

IN_A_ROW = 12  # remedies for one model without progress between them; more means that something else is wrong
IN_ALL = 60  # for one model in one session, progress or not: a night of a fault every ten minutes
SHORTEST_WINDOW = 64  # tokens; with less context than that a text cannot be learned from


@dataclass(frozen=True)
class Attempt:
    """How the next try at a model is computed. `longest_window`: tokens, the model's block_size at most."""

    micro_batch: int
    device: str
    mixed_precision: bool
    longest_window: int
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class Remedy:
    name: str
    limit: int  # times in a row for one symptom before the next remedy of its row


RETRY = Remedy("go on from the last checkpoint in a fresh process", 1)
RETRY_TWICE = Remedy("go on from the last checkpoint in a fresh process", 2)
HALVE = Remedy("halve the micro-batch, double the accumulation", 16)
RECOMPUTE = Remedy("compute blocks again in the backward pass (gradient checkpointing)", 1)
SHORTEN = Remedy("halve the windows, the same tokens in a step", 16)
CPU = Remedy("go on in float32 on the CPU", 1)
REMAKE = Remedy("make the damaged data again", 2)
MAKE_ROOM = Remedy("remove what this run can spare, else wait for room", 8)


@dataclass(frozen=True)
class Row:
    """`recognised`, `told`: sentences for a person; `told` is what is done by hand when the remedies are used up."""

    recognised: str
    remedies: tuple[Remedy, ...]
    told: str

    @property
    def in_order(self) -> str:
        """The remedies with their limits, in words."""
        return "; ".join(map(_with_limit, self.remedies)) or "none: it stops with the reason"


TABLE: dict[str, Row] = {
    faults.OUT_OF_MEMORY: Row(
        "The wording of torch, CUDA, Metal, the CPU's allocator or the system, also of an abort; or SIGKILL while less "
        "than 5 % of memory was left, or while the kernel counted one more out-of-memory kill.",
        (HALVE, RECOMPUTE, SHORTEN),
        "The next smaller model takes its place. It never grows back in this run, and the next run begins with what "
        "fitted. More memory, or a model with a smaller n_embd, n_layer or block_size, is the cure.",
    ),
    faults.DEVICE: Row(
        "An error of CUDA or Metal, an operation that the device lacks, loss or gradients other than the CPU's at the "
        "start, a command buffer's error on stderr, or an abort while an accelerator computed.",
        (RETRY, CPU),
        "Stay on the CPU with --set device.type=cpu; the model's log has the device's own words.",
    ),
    faults.NON_FINITE: Row(
        "Three bad steps in a row, or more than five in a hundred, again after three rewinds.",
        (CPU,),
        "Lower training.learning_rate and training.muon_learning_rate.",
    ),
    "stall": Row(
        "No heartbeat for five minutes, or for twenty steps where that is longer; the stacks are in the model's log.",
        (RETRY, CPU),
        "Read the stacks at the end of the model's log.",
    ),
    "killed": Row(
        "SIGKILL without a sign of memory pressure. macOS leaves none, so that after two of them it counts as memory.",
        (RETRY_TWICE, HALVE),
        "Something kills the trainer; the system's own log may say what.",
    ),
    "aborted": Row(
        "A signal of its own making, such as SIGSEGV, SIGABRT or SIGBUS, on the CPU.",
        (RETRY_TWICE, CPU),
        "Test the memory, and whether another version of torch does it too.",
    ),
    "crashed": Row(
        "An exit code that is no ending, and no outcome.",
        (RETRY_TWICE, CPU),
        "Read the end of the model's log.",
    ),
    faults.UNKNOWN: Row(
        "An error that is none of the others.",
        (RETRY_TWICE, CPU),
        "Read the end of the model's log.",
    ),
    "stopped": Row(
        "Somebody else sent the trainer SIGTERM or SIGINT; it saved.",
        (RETRY_TWICE,),
        "Stop the run itself (Ctrl-C), not its trainer.",
    ),
    faults.CORRUPT_FILE: Row(
        "A file that is missing, or not what its digest says. It is looked for at each start and after each crash.",
        (REMAKE,),
        "Test the disk and the memory.",
    ),
    faults.DISK_FULL: Row(
        "No space, a used-up quota, or a limit on the size of files.",
        (MAKE_ROOM,),
        "Free space: old runs are the folders of checkpoints/ and data/.",
    ),
    faults.READ_ONLY: Row(
        "A folder of the run cannot be written, or is no longer there.",
        (),
        "Mount it again, or mend its permissions; then the same command goes on.",
    ),
    faults.MEDIUM: Row(
        "The system reports an error of input or output (EIO).",
        (RETRY,),
        "The disk or its cable fails: copy the run elsewhere, and go on there with --workspace.",
    ),
    "user_error": Row("Exit code 2: a mistake in what was asked, told in a line.", (), "Mend what the line names."),
}

# What the trainer mends by itself: the names of its events, and what it did.
MENDED_BY_THE_TRAINER = {
    "out_of_memory": (faults.OUT_OF_MEMORY, HALVE.name),
    "skipped": ("bad_step", "the step was not taken, its data passed over"),
    "rewound": (faults.NON_FINITE, "back to a healthy checkpoint, half the learning rate, other data ahead"),
    "corrupt checkpoint": (faults.CORRUPT_FILE, "set aside; the checkpoint before it is taken"),
    "checkpoint missing": (faults.CORRUPT_FILE, "a new one is saved"),
    "restored": (faults.CORRUPT_FILE, "the rows are written anew from the checkpoint, which keeps them"),
    "rewritten": (faults.CORRUPT_FILE, "the rows are written again, as the training had written them"),
    "unreadable": (faults.CORRUPT_FILE, "set aside as *.bad, a new file begun"),
    "not compiled": ("compiler", "eager instead"),
}


@dataclass
class Doctor:
    """Chooses the remedy for each symptom of one model's training and remembers what was tried."""

    given: Counter = field(default_factory=Counter)  # since there was progress
    in_all: int = 0

    def recovered(self) -> None:
        """Training came further since the last remedy: what comes next is a new fault, not the old one again."""
        self.given.clear()

    def prescribe(self, symptom: str, attempt: Attempt) -> tuple[Remedy, Attempt] | None:
        """The remedy and the changed attempt, or None when nothing is left to try."""
        if symptom not in TABLE or self.given.total() >= IN_A_ROW or self.in_all >= IN_ALL:
            return None
        for remedy in TABLE[symptom].remedies:
            changed = _apply(remedy, attempt)
            if changed is not None and self.given[symptom, remedy] < remedy.limit:
                self.given[symptom, remedy] += 1
                self.in_all += 1
                return remedy, changed
        return None


def as_markdown() -> str:
    """The table as docs/remedies.md has it."""
    lines = ["| symptom | how it is recognised | remedies, in order | then |", "|---|---|---|---|"]
    for symptom, row in TABLE.items():
        lines.append(f"| `{symptom}` | {row.recognised} | {row.in_order} | {row.told} |")
    return "\n".join(lines) + "\n"


def _with_limit(remedy: Remedy) -> str:
    return f"{remedy.name} ({'once' if remedy.limit == 1 else f'{remedy.limit} times'})"


def _apply(remedy: Remedy, attempt: Attempt) -> Attempt | None:
    """The attempt after `remedy`, or None where it would change nothing."""
    if remedy is HALVE:
        return replace(attempt, micro_batch=attempt.micro_batch // 2) if attempt.micro_batch > 1 else None
    if remedy is RECOMPUTE:
        return None if attempt.gradient_checkpointing else replace(attempt, gradient_checkpointing=True)
    if remedy is SHORTEN:
        half, odd = divmod(attempt.longest_window, 2)
        return None if odd or half < SHORTEST_WINDOW else replace(attempt, longest_window=half)
    if remedy is CPU:
        changed = replace(attempt, device="cpu", mixed_precision=False)
        return changed if changed != attempt else None
    return attempt
