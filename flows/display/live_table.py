"""The picture of a run for a terminal of so many columns and rows: pure, from the run's state to lines of text.

Marks, times, the bar of the whole run and what happens now are always there; where columns are few, a line becomes
two, and where rows are few, phases far from the running one are left out first.
"""

import itertools
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from flows.display.protocol import TrainingProgress
from nanogpt.printable import printable
from nanogpt.units import clock, duration

WIDE = 70  # columns from which times are in words, and a phase's line says what it does
WIDEST_BAR, NARROWEST_BAR = 40, 6
SPARKS = "▁▂▃▄▅▆▇█"
MOST_LOSSES = 128  # kept for the trend
LEVEL = 0.002  # relative change of the loss; a smaller one counts as level
INDENT = "  "


class State(Enum):
    """Of a phase: its mark where the terminal has Unicode, its mark elsewhere, and its style."""

    WAITING = "·", ".", "dim"
    RUNNING = "▶", ">", "bold cyan"
    DONE = "✓", "+", "green"
    KEPT = "✓", "=", "blue"
    FAILED = "✗", "x", "bold red"
    STOPPED = "‖", "-", "yellow"


class Budget(Protocol):
    """The run's clock, over all its sessions."""

    @property
    def spent(self) -> float: ...

    @property
    def left(self) -> float: ...


@dataclass
class Phase:
    label: str
    state: State = State.WAITING
    began: float = 0.0  # time.monotonic
    seconds: float = 0.0
    steps: int = 0
    kept: int = 0
    running: dict[str, float] = field(default_factory=dict)  # title of a step -> when it began
    failure: str = ""

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began if self.state is State.RUNNING else self.seconds

    def outcome(self) -> str:
        kept = f"{self.kept} of {self.steps} steps kept" if self.kept else ""
        return {State.FAILED: self.failure, State.STOPPED: "stopped"}.get(self.state, kept)


class Losses:
    """The losses of one training, thinned evenly where they become many."""

    def __init__(self) -> None:
        self._model, self._step = "", -1
        self._values: list[float] = []

    def add(self, progress: TrainingProgress) -> None:
        if progress.loss is None or (progress.model, progress.step) == (self._model, self._step):
            return
        if progress.model != self._model or progress.step < self._step:  # another model, or the training was rewound
            self._values = []
        self._model, self._step = progress.model, progress.step
        self._values.append(progress.loss)
        if len(self._values) > MOST_LOSSES:
            self._values = self._values[::2]

    def trend(self) -> int:
        """-1 falling, 0 level, 1 rising: the last quarter against the quarter before it."""
        quarter = max(1, len(self._values) // 4)
        before, now = self._values[-2 * quarter : -quarter], self._values[-quarter:]
        if not before:
            return 0
        change = statistics.fmean(now) - statistics.fmean(before)
        return 0 if abs(change) <= LEVEL * abs(statistics.fmean(now)) else 1 if change > 0 else -1

    def sparkline(self, width: int) -> str:
        if len(self._values) < 3:
            return ""
        width = min(width, len(self._values))
        edges = [len(self._values) * part // width for part in range(width + 1)]
        means = [statistics.fmean(self._values[start:end]) for start, end in itertools.pairwise(edges)]
        low, high = min(means), max(means)
        scale = (len(SPARKS) - 1) / (high - low) if high > low else 0.0
        return "".join(SPARKS[round((mean - low) * scale)] for mean in means)


@dataclass
class Picture:
    """The state of a run, and how it is drawn."""

    heading: str  # "nanogpt-autopilot  run default  budget 10 min": two spaces between parts that may be left out
    phases: dict[str, Phase]
    budget: Budget | None = None
    encoding: str = "utf-8"
    planned: Mapping[str, float] = field(default_factory=dict)  # label of a phase -> seconds
    progress: TrainingProgress | None = None
    losses: Losses = field(default_factory=Losses)
    began: float = field(default_factory=time.monotonic)
    is_over: bool = False

    def show_progress(self, progress: TrainingProgress) -> None:
        self.progress = progress
        self.losses.add(progress)

    def lines(self, width: int, height: int) -> list[Text]:
        """At most `height` lines of at most `width` columns."""
        rows = [(9, self._heading(width)), (0, self._bar(width))]  # what has the highest number is left out first
        running = [index for index, phase in enumerate(self.phases.values()) if phase.state is State.RUNNING]
        for index, phase in enumerate(self.phases.values()):
            distance = min((abs(index - other) for other in running), default=index)
            rows.append((1 if distance == 0 else 10 + distance, self._row(phase, width)))
            if phase.state is State.RUNNING:
                details = self._details(phase, width, is_low=height < len(self.phases) + 6)
                rows += [(2 + number, line) for number, line in enumerate(details)]
        while len(rows) > max(1, height):
            rows.remove(max(rows, key=lambda row: row[0]))
        for _, line in rows:
            line.truncate(width, overflow="crop")  # in columns fewer than an indent
        return [line for _, line in rows]

    # ------------------------------------------------------------------------------------------ the whole run

    def _heading(self, width: int) -> Text:
        parts = self.heading.split(INDENT)
        while len(parts) > 1 and cell_len(INDENT.join(parts)) > width:
            del parts[0]
        return self._text(INDENT.join(parts), width, "bold")

    def _bar(self, width: int) -> Text:
        fraction, words = self._so_far(width)
        columns = min(WIDEST_BAR, width - cell_len(words) - len(INDENT))
        if columns < NARROWEST_BAR:
            return self._text(words, width, "bold")
        full, empty = ("━", "─") if self._has("━─") else ("#", "-")
        done = round(columns * fraction)
        return Text.assemble((full * done, "cyan"), (empty * (columns - done), "dim"), INDENT, (words, "bold"))

    def _so_far(self, width: int) -> tuple[float, str]:
        """How much of the whole run is done, and when it ends."""
        spent = self.budget.spent if self.budget else time.monotonic() - self.began
        if self.is_over:
            states = [phase.state for phase in self.phases.values()]
            word = "failed" if State.FAILED in states else "stopped" if State.STOPPED in states else "done"
            done = sum(state in (State.DONE, State.KEPT) for state in states) / len(states)
            return done, f"{word} after {duration(time.monotonic() - self.began)}"
        left = self._seconds_left()
        if left is None:
            return 0.0, f"{duration(spent)} so far"
        fraction = min(0.99, spent / max(1e-9, spent + left))
        bound = "" if self.planned else "at most "
        words = f"{100 * fraction:.0f} %  {bound}{clock(left)} left"
        if self.planned and width >= WIDE:
            words += f", done about {time.strftime('%H:%M', time.localtime(time.time() + left))}"
        return fraction, words

    def _seconds_left(self) -> float | None:
        """By the plan, once there is one; before that, by the budget."""
        if not self.planned:
            return self.budget.left if self.budget and self.budget.left > 0 else None
        return sum(self._left_of(phase) for phase in self.phases.values())

    def _left_of(self, phase: Phase) -> float:
        planned = self.planned.get(phase.label, 0.0)
        if phase.state is State.WAITING:
            return planned
        if phase.state is not State.RUNNING:
            return 0.0
        if self.progress and self.progress.seconds_left is not None:
            return self.progress.seconds_left + self.progress.seconds_after
        return max(0.0, planned - phase.elapsed)

    # ------------------------------------------------------------------------------------------ the phases

    def _row(self, phase: Phase, width: int) -> Text:
        mark, ascii_mark, style = phase.state.value
        labels = max(cell_len(self._shown(label)) for label in self.phases)
        is_wide = width >= WIDE
        took = duration(phase.elapsed) if is_wide else _short(phase.elapsed)
        times = 12 if is_wide else 8
        label = set_cell_size(self._shown(phase.label), max(0, min(labels, width - times - 2)))
        row = Text(f"{mark if self._has(mark) else ascii_mark} {label}", style)
        if phase.state is State.WAITING:
            return self._text(row.plain.rstrip(), width, style)
        row.append(took.rjust(times), "dim")
        note = phase.outcome() if is_wide else phase.outcome().replace(" steps kept", " kept")
        if phase.state is State.RUNNING:
            note = self._now(phase) if is_wide else ""  # else it has a line of its own
        room = width - row.cell_len - len(INDENT)
        if note and room > len(INDENT):
            row.append_text(Text.assemble(INDENT, self._text(note, room, "dim")))
        return row

    def _now(self, phase: Phase) -> str:
        """What happens in a phase: its steps, and what the trainer does besides training."""
        doing = self.progress.doing() if self.progress else ""
        return ", ".join(phase.running) + (f": {doing}" if doing else "")

    def _details(self, phase: Phase, width: int, is_low: bool) -> list[Text]:
        """What stands below the running phase; less of it where rows are few."""
        room = width - len(INDENT)
        now = [self._text(self._now(phase), room)] if width < WIDE and phase.running else []
        if self.progress is None:
            return [Text.assemble(INDENT, line) for line in now]
        progress = self.progress
        position = f"model {progress.position} of {progress.models}"
        where = (
            [position, progress.left()] if is_low else [position, progress.model, progress.how_far(), progress.left()]
        )
        losses = [self._loss(), *([] if is_low else [*self._more_of_the_loss(width), progress.speed()])]
        losses += [progress.memory()] if width >= WIDE else []
        return [Text.assemble(INDENT, line) for line in [*now, *self._flow(where, room), *self._flow(losses, room)]]

    def _loss(self) -> str:
        if self.progress is None or self.progress.loss is None:
            return ""
        arrow = {-1: ("↘", "falling"), 0: ("→", "level"), 1: ("↗", "rising")}[self.losses.trend()]
        return f"loss {self.progress.loss:.3f} {arrow[0] if self._has(arrow[0]) else arrow[1]}"

    def _more_of_the_loss(self, width: int) -> list[str]:
        sparks = self.losses.sparkline(24 if width >= 100 else 12) if self._has(SPARKS) else ""
        val_loss = self.progress.val_loss if self.progress else None
        return [sparks, "" if val_loss is None else f"val {val_loss:.4f}"]

    # ------------------------------------------------------------------------------------------ text

    def _flow(self, fields: Iterable[str], width: int) -> list[Text]:
        """The fields in as many lines as they need, none broken."""
        lines: list[str] = []
        for words in filter(None, fields):
            longer = f"{lines[-1]}{INDENT}{words}" if lines else ""
            if lines and cell_len(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(words)
        return [self._text(line, width) for line in lines]

    def _text(self, words: str, width: int, style: str = "") -> Text:
        """`words` in one line of at most `width` columns."""
        words = self._shown(words)
        if cell_len(words) > width:
            dots = ("…" if self._has("…") else "...")[:width]
            words = set_cell_size(words, max(0, width - len(dots))) + dots
        return Text(words, style)

    def _shown(self, words: str) -> str:
        return printable(words.replace("\n", " ").replace("\t", " "), self.encoding)

    def _has(self, characters: str) -> bool:
        """Whether the terminal can show them."""
        return printable(characters, self.encoding) == characters


def _short(seconds: float) -> str:
    """8.42 -> '8.4 s', 130 -> '2:10'."""
    return clock(seconds) if seconds >= 59.95 else duration(seconds)
