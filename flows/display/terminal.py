"""What a person sees of a running run: a live table of the phases on a terminal, one line an event in a pipe.

One thread alone, the painter, prints. Everybody else changes the state under a lock that is never held while anything
is printed, or puts a line into a queue: a terminal that is slow, or stopped by Ctrl-S, holds up nobody.
"""

import io
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TextIO

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flows.display.protocol import (
    BackgroundStep,
    Display,
    Level,
    Log,
    Opening,
    Row,
    T,
    TrainingProgress,
    one_line,
)
from nanogpt.units import duration

WAITING, RUNNING, DONE, KEPT, FAILED, STOPPED = "waiting", "running", "done", "kept", "failed", "stopped"
MARKS = {WAITING: "·", RUNNING: "▶", DONE: "✓", KEPT: "✓", FAILED: "✗", STOPPED: "‖"}
ASCII_MARKS = {WAITING: ".", RUNNING: ">", DONE: "+", KEPT: "+", FAILED: "x", STOPPED: "-"}
STYLES = {WAITING: "dim", RUNNING: "bold cyan", DONE: "green", KEPT: "blue", FAILED: "bold red", STOPPED: "yellow"}
LEVEL_STYLES = {"warning": "yellow", "error": "red"}
SECONDS_BETWEEN_REFRESHES = 0.5  # the cores are for training
CLOSING_SECONDS = 5.0  # for a terminal that takes nothing more
PIPED_PROGRESS_SECONDS = 30.0


@dataclass
class _Phase:
    label: str
    state: str = WAITING
    began: float = 0.0
    seconds: float = 0.0
    steps: int = 0
    kept: int = 0
    running: dict[str, float] = field(default_factory=dict)  # title of a step -> when it began
    failure: str = ""


class Terminal:
    """Shows phases and steps on `console`. `labels` are the phases to come; `time_left` gives seconds of the budget.

    Every method may be called from any thread, and returns at once. What cannot be shown is written to `log`, once.
    """

    def __init__(
        self, console: Console, labels: Sequence[str], heading: str, time_left: Callable[[], float] | None = None,
        log: Log = lambda line: None,
    ) -> None:  # fmt: skip
        self._console = console
        self._log = log
        self._heading = heading
        self._time_left = time_left
        self._began = time.monotonic()
        self._phases = {label: _Phase(label) for label in labels}
        self._current: _Phase | None = None
        self._progress = ""
        self._progress_printed = 0.0
        self._has_failed = False
        self._printed = 0  # how often lines were printed
        self._lock = threading.RLock()
        self._lines: queue.SimpleQueue[Text | None] = queue.SimpleQueue()  # None: nothing more comes
        self._marks = MARKS if console.encoding.lower().startswith("utf") else ASCII_MARKS
        is_live = console.is_terminal and not console.is_dumb_terminal
        self._live: Live | None = None
        self._strays: list[_Stray] = []
        if is_live:
            self._live = Live(self, console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self._streams = sys.stdout, sys.stderr
            self._strays = [_Stray(stream, self._lines.put) for stream in self._streams]
            sys.stdout, sys.stderr = self._strays
        self._painter = threading.Thread(target=self._paint, name="terminal", daemon=True)
        self._painter.start()

    def phase_started(self, label: str) -> None:
        with self._lock:
            phase = self._phases.setdefault(label, _Phase(label))
            phase.state, phase.began = RUNNING, time.monotonic()
            self._current = phase
            self._line(label)

    def phase_finished(self, label: str, failure: str | None = None, stopped: bool = False) -> None:
        """The phase has ended: with `failure` ("failed: cause"), stopped by a person, or well."""
        with self._lock:
            phase = self._phases[label]
            phase.seconds = time.monotonic() - phase.began
            phase.failure = failure or ""
            all_kept = phase.steps > 0 and phase.kept == phase.steps
            phase.state = STOPPED if stopped else FAILED if failure else KEPT if all_kept else DONE
            phase.running.clear()
            self._progress = ""
            done = f"done in {duration(phase.seconds)}" if phase.state == DONE else ""
            self._line(f"{label}: {', '.join(filter(None, [done, self._outcome(phase)]))}")

    def step_started(self, title: str) -> None:
        with self._lock:
            self._of_step().running[title] = time.monotonic()
            self._of_step().steps += 1
            self._line(f"  {title} ...")

    def step_ended(self, title: str, how: str) -> None:
        with self._lock:
            for phase in self._phases.values():  # a background step may outlive its phase
                if phase.running.pop(title, None) is not None:
                    break
            self._progress = ""
            self._line(f"  {title}: {how}")

    def step_kept(self, title: str, reason: str) -> None:
        with self._lock:
            self._of_step().steps += 1
            self._of_step().kept += 1
            self._line(f"  {title}: kept ({reason})")

    def progress(self, text: str) -> None:
        """The latest line of the running step; piped, one every half minute."""
        with self._lock:
            self._progress = text
            if time.monotonic() - self._progress_printed >= PIPED_PROGRESS_SECONDS:
                self._progress_printed = time.monotonic()
                self._line(f"    {text}")

    def message(self, text: str, level: str = "info") -> None:
        prefix = "" if level == "info" else f"{level}: "
        if self._live:
            self._lines.put(Text(f"{prefix}{text}", style=LEVEL_STYLES.get(level, "")))
        else:
            self._line(f"{prefix}{text}")

    def close(self) -> None:
        """Leave the last picture standing and give the terminal back."""
        for stray in self._strays:
            stray.end_line()
        self._lines.put(None)
        before = -1
        while self._painter.is_alive() and self._printed != before:
            before = self._printed
            self._painter.join(CLOSING_SECONDS)
        if self._live:
            sys.stdout, sys.stderr = self._streams

    def _of_step(self) -> _Phase:
        """The phase that a step belongs to; a step before the first phase gets a nameless one."""
        return self._current or _Phase("")

    def _line(self, text: str) -> None:
        """One event in a pipe; the live table shows it by itself."""
        if self._live is None:
            at = time.strftime("%H:%M:%S")
            self._lines.put(Text(f"{at} {' ' * (len(text) - len(text.lstrip()))}{one_line(text)}"))

    # ------------------------------------------------------------------------------------------ the painter

    def _paint(self) -> None:
        """Print what is in the queue, and draw the table anew, until the end."""
        if self._live:
            self._try(self._live.start)
        is_open = True
        while is_open:
            lines, is_open = self._next_lines()
            if lines:
                self._try(partial(self._console.print, Text("\n").join(lines), soft_wrap=self._live is None))
                self._printed += 1
            if self._live:
                self._try(self._live.refresh)
        if self._live:
            self._try(self._live.stop)

    def _next_lines(self) -> tuple[list[Text], bool]:
        """The lines that have come, waiting a moment for the first; whether more may come."""
        lines: list[Text] = []
        try:
            line = self._lines.get(timeout=SECONDS_BETWEEN_REFRESHES)
            while line is not None:
                lines.append(line)
                line = self._lines.get_nowait()
        except queue.Empty:
            return lines, True
        return lines, False

    def _try(self, show: Callable[[], object]) -> None:
        try:
            show()
        except Exception as error:
            if not self._has_failed:
                self._log(f"the run cannot be shown: {one_line(error)}")
            self._has_failed = True

    # ------------------------------------------------------------------------------------------ the live table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._lock:
            picture = Group(self._header(), self._table())
        yield picture

    def _header(self) -> Text:
        spent = f"{duration(time.monotonic() - self._began)} elapsed"
        left = self._time_left() if self._time_left else None
        budget = "" if left is None else f", {duration(left)} of the budget left" if left > 0 else ", budget spent"
        return Text.assemble((self._heading, "bold"), "  ", (spent + budget, "dim"))

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for phase in self._phases.values():
            style = STYLES[phase.state]
            spent = time.monotonic() - phase.began if phase.state == RUNNING else phase.seconds
            table.add_row(
                Text(self._marks[phase.state], style),
                Text(phase.label, style),
                Text("" if phase.state in (WAITING, KEPT) else duration(spent), "dim"),
                Text(self._doing(phase) if phase.state == RUNNING else self._outcome(phase), "dim"),
            )
            if phase.state == RUNNING and self._progress:
                table.add_row("", "", "", Text(self._progress))
        return table

    @staticmethod
    def _doing(phase: _Phase) -> str:
        return ", ".join(phase.running)

    @staticmethod
    def _outcome(phase: _Phase) -> str:
        kept = f"{phase.kept} of {phase.steps} steps kept" if phase.kept else ""
        return {FAILED: phase.failure, STOPPED: "stopped", DONE: kept, KEPT: kept, WAITING: ""}[phase.state]


class _Stray(io.TextIOBase):
    """What other code prints while the live table is shown: lines for the painter."""

    def __init__(self, stream: TextIO, put: Callable[[Text], None]) -> None:
        self.rich_proxied_file = stream  # where rich itself is to write
        self._put = put
        self._begun = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]  # read-only there too
        return self.rich_proxied_file.encoding

    def fileno(self) -> int:
        return self.rich_proxied_file.fileno()

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._put(Text.from_ansi(line))
        return len(text)

    def end_line(self) -> None:
        """Hand over a line that was begun."""
        if self._begun:
            self.write("\n")


class OnTerminal:
    """A display that shows everything on the terminal and passes it on to another display.

    What is only shown fails no run: when it cannot be shown, `log` says so, once.
    """

    def __init__(self, display: Display, terminal: Terminal, log: Log) -> None:
        self._display = display
        self._terminal = terminal
        self._log = log
        self._has_failed = False

    @property
    def url(self) -> str | None:
        return self._display.url

    def flow(self, function: Callable[[], T], opening: Opening) -> T:
        return self._display.flow(function, opening)

    def phase(self, label: str, function: Callable[[], T]) -> T:
        self._show(lambda: self._terminal.phase_started(label))
        try:
            value = self._display.phase(label, function)
        except Exception as error:
            failure = f"{getattr(error, 'shown_as', 'failed').lower()}: {one_line(error)}"
            self._show(lambda: self._terminal.phase_finished(label, failure))
            raise
        except BaseException:
            self._show(lambda: self._terminal.phase_finished(label, stopped=True))
            raise
        self._show(lambda: self._terminal.phase_finished(label))
        return value

    def step(self, title: str, function: Callable[[], T]) -> T:
        return self._display.step(title, self._shown(title, function))

    def step_kept(self, title: str, reason: str) -> None:
        self._show(lambda: self._terminal.step_kept(title, reason))
        self._show(lambda: self._display.step_kept(title, reason))

    def start_in_background(self, title: str, function: Callable[[], T]) -> BackgroundStep[T]:
        return self._display.start_in_background(title, self._shown(title, function))

    def progress(self, progress: TrainingProgress) -> None:
        self._show(lambda: self._terminal.progress(progress.line()))
        self._show(lambda: self._display.progress(progress))

    def markdown(self, key: str, text: str, description: str = "") -> None:
        self._show(lambda: self._display.markdown(key, text, description))

    def table(self, key: str, rows: Sequence[Row], description: str = "") -> None:
        self._show(lambda: self._display.table(key, rows, description))

    def note(self, message: str, level: Level = "info") -> None:
        self._show(lambda: self._terminal.message(message, level))
        self._show(lambda: self._display.note(message, level))

    def _shown(self, title: str, function: Callable[[], T]) -> Callable[[], T]:
        """`function`, with its start and end shown on the terminal."""

        def shown() -> T:
            began = time.monotonic()
            self._show(lambda: self._terminal.step_started(title))
            try:
                value = function()
            except BaseException as error:
                ending = f"{'failed: ' if isinstance(error, Exception) else ''}{one_line(error)}"
                self._show(lambda: self._terminal.step_ended(title, ending))
                raise
            self._show(lambda: self._terminal.step_ended(title, f"done in {duration(time.monotonic() - began)}"))
            return value

        return shown

    def _show(self, show: Callable[[], None]) -> None:
        try:
            show()
        except Exception as error:
            if not self._has_failed:
                self._log(f"the run cannot be shown: {one_line(error)}")
            self._has_failed = True
