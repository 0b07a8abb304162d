"""What a person sees of a run: a live table of the phases on a terminal, one line an event in a pipe.

One thread alone, the painter, prints. Everybody else changes the state under a lock that is never held while anything
is printed, or puts a line into a queue: a terminal that is slow, or stopped by Ctrl-S, delays nobody.
"""

import io
import math
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.control import Control
from rich.live import Live
from rich.text import Text

from flows.display.live_table import Budget, Phase, Picture, State
from flows.display.protocol import (
    BackgroundStep,
    Display,
    LeftOut,
    Level,
    Log,
    Opening,
    Row,
    T,
    TrainingProgress,
    one_line,
)
from nanogpt.printable import printable
from nanogpt.units import duration

LEVEL_STYLES = {"info": "", "warning": "yellow", "error": "red"}
SECONDS_BETWEEN_REFRESHES = 1.0  # the cores are for training, whose heartbeats come once a second
CLOSING_SECONDS = 5.0  # for a terminal that accepts no output
PIPED_PROGRESS_SECONDS = 30.0
RECENT_LINES = 200  # printed again when the terminal changes its size


class Terminal:
    """Shows phases and steps on `console`. `labels` are the phases to come; `budget` is the run's clock.

    Every method may be called from any thread, and returns at once. What cannot be shown is written to `log`, once.
    """

    def __init__(
        self, console: Console, labels: Sequence[str], heading: str, budget: Budget | None = None,
        log: Log = lambda line: None,
    ) -> None:  # fmt: skip
        self._console = console
        self._try = _Try(log)
        self._picture = Picture(heading, {label: Phase(label) for label in labels}, budget, console.encoding)
        self._current: Phase | None = None
        self._progress_printed = -math.inf  # time.monotonic
        self._printed = 0  # how often lines were printed
        self._lock = threading.RLock()  # of the picture
        self._lines: queue.SimpleQueue[Text | None] = queue.SimpleQueue()  # None: nothing more comes
        self._recent: deque[Text] = deque(maxlen=RECENT_LINES)
        self._live: Live | None = None
        self._strays: list[_Stray] = []
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(self, console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self._streams = sys.stdout, sys.stderr
            self._strays = [_Stray(stream, self._put) for stream in self._streams]
            sys.stdout, sys.stderr = self._strays
        self._painter = threading.Thread(target=self._paint, name="terminal", daemon=True)
        self._painter.start()

    def phase_started(self, label: str) -> None:
        with self._lock:
            phase = self._picture.phases.setdefault(label, Phase(label))
            phase.state, phase.began = State.RUNNING, time.monotonic()
            self._current = phase
        self._event(label)

    def phase_finished(self, label: str, failure: str | None = None, stopped: bool = False) -> None:
        """The phase has ended: with `failure` ("failed: cause"), stopped by a person, or well."""
        with self._lock:
            phase = self._picture.phases[label]
            phase.seconds, phase.failure = phase.elapsed, failure or ""
            all_kept = phase.steps > 0 and phase.kept == phase.steps
            well = State.KEPT if all_kept else State.DONE
            phase.state = State.STOPPED if stopped else State.FAILED if failure else well
            phase.running.clear()
            self._picture.progress = None
            done = f"done in {duration(phase.seconds)}" if phase.state is State.DONE else ""
            outcome = ", ".join(filter(None, [done, phase.outcome()]))
        self._event(f"{label}: {outcome}")

    def step_started(self, title: str) -> None:
        with self._lock:
            phase = self._phase_of_steps()
            phase.running[title] = time.monotonic()
            phase.steps += 1
        self._event(f"  {title} ...")

    def step_ended(self, title: str, how: str) -> None:
        with self._lock:
            for phase in self._picture.phases.values():  # a background step may outlive its phase
                if phase.running.pop(title, None) is not None:
                    break
            self._picture.progress = None
        self._event(f"  {title}: {how}")

    def step_kept(self, title: str, reason: str) -> None:
        with self._lock:
            phase = self._phase_of_steps()
            phase.steps += 1
            phase.kept += 1
        self._event(f"  {title}: kept ({reason})")

    def forecast(self, planned: Mapping[str, float]) -> None:
        with self._lock:
            self._picture.planned = dict(planned)

    def progress(self, progress: TrainingProgress) -> None:
        """The newest of the running step; piped, a line every half minute."""
        with self._lock:
            self._picture.show_progress(progress)
        if time.monotonic() - self._progress_printed >= PIPED_PROGRESS_SECONDS:
            self._progress_printed = time.monotonic()
            self._event(f"    {progress.line()}")

    def message(self, text: str, level: Level = "info") -> None:
        text = text if level == "info" else f"{level}: {text}"
        if self._live:
            self._put(text, LEVEL_STYLES[level])
        else:
            self._event(text)

    def close(self) -> None:
        """Leave the last picture standing and give the terminal back."""
        for stray in self._strays:
            stray.end_line()
        with self._lock:
            self._picture.is_over = True
        self._lines.put(None)
        before = -1
        while self._painter.is_alive() and self._printed != before:
            before = self._printed
            self._painter.join(CLOSING_SECONDS)
        if self._live:
            sys.stdout, sys.stderr = self._streams

    def _phase_of_steps(self) -> Phase:
        """The phase that a step belongs to; a step before the first phase gets a nameless one."""
        return self._current or Phase("")

    def _event(self, text: str) -> None:
        """A line in a pipe; the live table shows the event by itself."""
        if self._live is None:
            indent = " " * (len(text) - len(text.lstrip()))
            self._put(f"{time.strftime('%H:%M:%S')} {indent}{one_line(text)}")

    def _put(self, line: str, style: str = "") -> None:
        self._lines.put(Text(printable(line, self._console.encoding), style))

    # ------------------------------------------------------------------------------------------ the painter

    def _paint(self) -> None:
        """Print what is in the queue, and draw the table anew, until the end."""
        if self._live:
            self._try(self._start)
        size, is_open = self._console.size, True
        while is_open:
            lines, is_open = self._next_lines()
            if self._live and size != (size := self._console.size):
                self._try(self._start_over)
            if lines:
                self._try(partial(self._print, lines))
                self._printed += 1
            if self._live:
                self._try(self._live.refresh)
        if self._live:
            self._try(self._live.stop)

    def _start(self) -> None:
        if self._live:
            self._live.start()
            self._console.show_cursor(True)  # rich hides it: a run that is killed would leave the terminal without one

    def _print(self, lines: list[Text]) -> None:
        self._recent.extend(lines)
        self._console.print(Text("\n").join(lines), soft_wrap=self._live is None)

    def _start_over(self) -> None:
        """Clear the screen and print the latest lines: terminals differ in what a change of size does to the old."""
        columns, rows = self._console.size
        free, latest = rows - len(self._picture_lines()) - 1, list[Text]()
        for line in reversed(self._recent):
            free -= len(line.wrap(self._console, columns))
            if free < 0:
                break
            latest.insert(0, line)
        self._console.control(Control.clear(), Control.home())
        if latest:
            self._console.print(Text("\n").join(latest))

    def _next_lines(self) -> tuple[list[Text], bool]:
        """The lines that have come, waiting for the first, a moment only where the table is drawn; whether more may
        come."""
        lines: list[Text] = []
        try:
            line = self._lines.get(timeout=SECONDS_BETWEEN_REFRESHES if self._live else None)
            while line is not None:
                lines.append(line)
                line = self._lines.get_nowait()
        except queue.Empty:
            return lines, True
        return lines, False

    def _picture_lines(self) -> list[Text]:
        lines: list[Text] = []
        self._try(lambda: lines.extend(self._drawn()))  # a table that cannot be drawn costs no message
        return lines

    def _drawn(self) -> list[Text]:
        columns, rows = self._console.size
        with self._lock:
            return self._picture.lines(columns, rows - 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("\n").join(self._picture_lines())


class _Try:
    """Calls what shows something; when it fails, `log` says so, once."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._has_failed = False

    def __call__(self, show: Callable[[], object]) -> None:
        try:
            show()
        except Exception as error:
            if not self._has_failed:
                self._log(f"the run cannot be shown: {one_line(error)}")
            self._has_failed = True


class _Stray(io.TextIOBase):
    """What other code prints while the live table is shown: lines for the painter."""

    def __init__(self, stream: TextIO, put: Callable[[str], None]) -> None:
        self.rich_proxied_file = stream  # where rich itself is to write
        self._put = put
        self._begun = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]  # read-only there too
        return self.rich_proxied_file.encoding

    def fileno(self) -> int:
        return self.rich_proxied_file.fileno()

    def write(self, text: str) -> int:
        *lines, begun = (self._begun + text).split("\n")
        self._begun = begun.rpartition("\r")[2]  # a progress bar writes its line again and again
        for line in lines:
            self._put(Text.from_ansi(line.rstrip("\r").rpartition("\r")[2]).plain)  # without its colours
        return len(text)

    def end_line(self) -> None:
        """Hand over a line that was begun."""
        if self._begun:
            self.write("\n")


class OnTerminal:
    """A display that shows everything on the terminal and passes it on to another display. What is only shown fails no
    run."""

    def __init__(self, display: Display, terminal: Terminal, log: Log) -> None:
        self._display = display
        self._terminal = terminal
        self._show = _Try(log)

    @property
    def url(self) -> str | None:
        return self._display.url

    def flow(self, function: Callable[[], T], opening: Opening) -> T:
        return self._display.flow(function, opening)

    def settle(self) -> None:
        self._show(self._display.settle)

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

    def forecast(self, planned: Mapping[str, float]) -> None:
        self._show(lambda: self._terminal.forecast(planned))
        self._show(lambda: self._display.forecast(planned))

    def progress(self, progress: TrainingProgress) -> None:
        self._show(lambda: self._terminal.progress(progress))
        self._show(lambda: self._display.progress(progress))

    def markdown(self, key: str, text: str, description: str = "") -> None:
        self._show(lambda: self._display.markdown(key, text, description))

    def table(self, key: str, rows: Sequence[Row], description: str = "") -> None:
        self._show(lambda: self._display.table(key, rows, description))

    def image(self, key: str, file: Path, description: str = "") -> None:
        self._show(lambda: self._display.image(key, file, description))

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
            done = f"done in {duration(time.monotonic() - began)}"
            how = f"left out: {value.reason}" if isinstance(value, LeftOut) else done
            self._show(lambda: self._terminal.step_ended(title, how))
            return value

        return shown
