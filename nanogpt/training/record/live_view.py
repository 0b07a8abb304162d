"""What a person sees of a training: one line that moves, events, and a loss plot that grows.

    python -m nanogpt.training.record.live_view FOLDER EVENTS HEARTBEAT

EVENTS and HEARTBEAT are what earlier sessions left there (Past). It is a process of its own and reads
the files that the trainer leaves in FOLDER anyway. Loading matplotlib takes 0.4 s of a core and a drawing 0.1 s; in a
thread of the trainer they would hold Python's lock meanwhile. Line and drawings together take less than 1 % of a core.
It ends when its standard input does: with the trainer, however that one ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from nanogpt.results.training import Heartbeat, TrainerEvent
from nanogpt.training.record.metrics import as_event, read_heartbeat, read_rows
from nanogpt.units import byte_size, clock, step_of

LOOK_SECONDS = 0.5
LINE_SECONDS = 10.0  # between lines in a pipe
PLOT_SECONDS = 25.0
LAST_PLOT_SECONDS = 20.0  # a busy machine may take that long
WIDEST_BAR, NARROWEST_BAR = 30, 8
STOPPING = "stopping: saved after this step"


def describe(heartbeat: Heartbeat) -> str:
    """One line: step, losses, speed, time left, memory, and the activity unless it is training."""
    parts = [f"step {step_of(heartbeat.step, heartbeat.expected_steps, heartbeat.is_estimate)}"]
    if heartbeat.loss is not None:
        parts.append(f"loss {heartbeat.loss:.3f}")
    if heartbeat.val_loss is not None:
        parts.append(f"val {heartbeat.val_loss:.4f}")
    if heartbeat.tokens_per_second is not None:
        parts.append(f"{heartbeat.tokens_per_second:,.0f} tokens/s")
    if heartbeat.eta_seconds is not None:
        parts.append(f"{clock(heartbeat.eta_seconds)} left")
    if heartbeat.memory_bytes:
        parts.append(byte_size(heartbeat.memory_bytes))
    if heartbeat.activity not in ("", "training"):
        parts.append(heartbeat.activity)
    return "  ".join(parts)


@contextlib.contextmanager
def shown(folder: Path) -> Iterator[None]:
    """Show the training in `folder`, on this process's standard output, while the block runs."""
    past = Past.of(folder)
    command = [sys.executable, "-m", __name__, str(folder), str(past.events), str(past.heartbeat)]
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
    except OSError as error:  # no memory, no processes left: the training may still do
        print(f"the training is not shown: {error}", file=sys.stderr)
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(BrokenPipeError):
            if process.stdin:
                process.stdin.close()
        try:
            process.wait(LAST_PLOT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main(folder: Path, past: Past) -> int:
    """Show until standard input ends, then draw the plot once more."""
    watched = Watched(folder, past)
    signal.signal(signal.SIGINT, watched.asked_to_stop)  # Ctrl-C reaches the trainer too
    if hasattr(os, "nice"):
        os.nice(10)  # the cores are for training
    over = threading.Event()
    threading.Thread(target=wait_for_the_end, args=(over,), daemon=True).start()
    view = view_of(folder.name)
    drawn = time.monotonic()
    with view:
        while not over.wait(LOOK_SECONDS):
            for event in watched.news():
                view.message(f"step {event.step:,}  {event.event}: {event.message}")
            if heartbeat := watched.heartbeat():
                view.show(heartbeat)
            if time.monotonic() - drawn >= PLOT_SECONDS:
                draw(folder)
                drawn = time.monotonic()
    draw(folder)
    return 0


def wait_for_the_end(over: threading.Event) -> None:
    """Set `over` when standard input ends: the trainer holds its other end, and writes nothing."""
    while os.read(0, 1):
        pass
    over.set()


@dataclass(frozen=True)
class Past:
    """What earlier sessions left in a folder. By content: the machine's clock may have been set since."""

    events: int  # rows of events.jsonl
    heartbeat: int  # when the file was written, in ns; 0 without one. Any other time is another heartbeat's

    @classmethod
    def of(cls, folder: Path) -> Past:
        return cls(sum(1 for _ in read_rows(folder / "events.jsonl")), written_at(folder / "heartbeat"))


def written_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


class Watched:
    """What the trainer has written into its files since `past`."""

    def __init__(self, folder: Path, past: Past):
        self.folder, self.past, self.stopping = folder, past, False
        self._rows, self._size = past.events, -1

    def asked_to_stop(self, *_: Any) -> None:
        self.stopping = True

    def heartbeat(self) -> Heartbeat | None:
        """The latest one, unless it is an earlier session's."""
        if written_at(self.folder / "heartbeat") == self.past.heartbeat:
            return None
        heartbeat = read_heartbeat(self.folder)
        if heartbeat and self.stopping and heartbeat.activity != "saving":
            return replace(heartbeat, activity=STOPPING)
        return heartbeat

    def news(self) -> list[TrainerEvent]:
        """The events since the last call."""
        path = self.folder / "events.jsonl"
        size = path.stat().st_size if path.is_file() else 0
        if size == self._size:
            return []
        rows = list(read_rows(path))
        new, self._rows, self._size = rows[self._rows :], len(rows), size
        return [event for row in new if (event := as_event(row))]


def view_of(name: str) -> Line | Lines:
    """By where standard output goes."""
    console = Console(highlight=False)
    return Line(console, name) if console.is_terminal and not console.is_dumb_terminal else Lines()


class Line:
    """On a terminal: name, bar and figures in one line at the bottom, and events above it."""

    def __init__(self, console: Console, name: str):
        self.console, self.name = console, name
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._live.stop()

    def show(self, heartbeat: Heartbeat) -> None:
        name, figures = Text(f"{self.name}  ", "bold", end=""), Text(describe(heartbeat), "dim")
        figures.highlight_regex(r"\d[\d.,:/]*", "not dim cyan")
        line = Text.assemble(name, self._bar(heartbeat, name.cell_len + figures.cell_len), figures)
        line.truncate(self.console.width, overflow="ellipsis")
        self._live.update(line, refresh=True)

    def message(self, text: str) -> None:
        self.console.print(text, style="dim", markup=False, soft_wrap=True)

    def _bar(self, heartbeat: Heartbeat, taken: int) -> Text:
        """As wide as the screen allows, beyond `taken` columns."""
        width = min(WIDEST_BAR, self.console.width - taken - 2)
        if width < NARROWEST_BAR:
            return Text()
        done = round(width * min(1.0, heartbeat.step / heartbeat.expected_steps)) if heartbeat.expected_steps else 0
        full, empty = ("━", "─") if self.console.encoding.lower().startswith("utf") else ("#", "-")
        return Text.assemble((full * done, "cyan"), (empty * (width - done), "dim"), "  ")


class Lines:
    """In a pipe or a file: a line every ten seconds, and one for each event."""

    def __init__(self) -> None:
        self._next, self._last = 0.0, ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None: ...

    def show(self, heartbeat: Heartbeat) -> None:
        text = describe(heartbeat)
        if time.monotonic() >= self._next and heartbeat.loss is not None and text != self._last:
            self._next, self._last = time.monotonic() + LINE_SECONDS, text
            self.message(text)

    def message(self, text: str) -> None:
        try:
            print(" ".join(text.split("\n")), flush=True)
        except BrokenPipeError:  # the reader, such as `head`, has seen enough; the training continues
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def draw(folder: Path) -> None:
    """loss.svg; without it nothing is lost."""
    from nanogpt.plots.training import loss_plot

    if not (folder / "metrics.jsonl").is_file():
        return
    try:
        loss_plot(folder, folder / "loss.svg")
    except Exception as error:
        print(f"no loss plot: {type(error).__name__}: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Past(int(sys.argv[2]), int(sys.argv[3]))))
