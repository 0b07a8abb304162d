"""What a person sees of a training: one line that moves, what happens, and a loss plot that grows.

    python -m nanogpt.training.record.live_view FOLDER EVENTS HEARTBEAT

EVENTS and HEARTBEAT are what earlier sessions left there (Past). It is a process beside the trainer, and reads the
files that the trainer leaves in FOLDER anyway. Loading matplotlib takes 0.4 s of a core and a drawing 0.1 s; in a
thread of the trainer they would hold Python's lock meanwhile. Line and drawings together take less than 1 % of a core.
It ends when its standard input does: with the trainer, however that one ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt.training.record.metrics import read_rows

LOOK_SECONDS = 0.5
LINE_SECONDS = 10.0  # between lines in a pipe
PLOT_SECONDS = 25.0
LAST_PLOT_SECONDS = 20.0  # a busy machine may take that long
WIDEST_BAR, NARROWEST_BAR = 30, 8
STOPPING = "stopping: saved after this step"


def describe(heartbeat: dict[str, Any]) -> str:
    """One line: step, losses, speed, time left, memory, and what goes on unless it is training."""
    parts = [f"step {heartbeat.get('step', 0):,}/{heartbeat.get('max_iters', 0):,}"]
    for key, text in (("loss", "loss {:.3f}"), ("val_loss", "val {:.4f}"), ("tokens_per_second", "{:,.0f} tokens/s")):
        if heartbeat.get(key) is not None:
            parts.append(text.format(heartbeat[key]))
    if heartbeat.get("eta_seconds") is not None:
        parts.append(f"{clock(heartbeat['eta_seconds'])} left")
    if heartbeat.get("memory_bytes"):
        parts.append(f"{heartbeat['memory_bytes'] / 2**30:.2f} GiB")
    if heartbeat.get("activity") not in (None, "training"):
        parts.append(heartbeat["activity"])
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """75 -> '1:15', 7384 -> '2:03:04'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


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
                view.tell(f"step {event['step']:,}  {event['event']}: {event['message']}")
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
    """What earlier sessions left in a folder and is no news. By content: their times may be of a clock that was set."""

    events: int  # rows of events.jsonl
    heartbeat: int  # when the file was written, in ns; 0: there is none. Another time, earlier or later, is another one

    @classmethod
    def of(cls, folder: Path) -> Past:
        return cls(sum(1 for _ in read_rows(folder / "events.jsonl")), written_at(folder / "heartbeat"))


def written_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


class Watched:
    """What the trainer says in its files since `past`."""

    def __init__(self, folder: Path, past: Past):
        self.folder, self.past, self.stopping = folder, past, False
        self._rows, self._size = past.events, -1

    def asked_to_stop(self, *_: Any) -> None:
        self.stopping = True

    def heartbeat(self) -> dict | None:
        """The latest one, unless it is an earlier session's."""
        path = self.folder / "heartbeat"
        if written_at(path) == self.past.heartbeat:
            return None
        try:
            heartbeat = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        if self.stopping and heartbeat["activity"] != "saving":
            heartbeat["activity"] = STOPPING
        return heartbeat

    def news(self) -> list[dict]:
        """The events since the last call."""
        path = self.folder / "events.jsonl"
        size = path.stat().st_size if path.is_file() else 0
        if size == self._size:
            return []
        rows = list(read_rows(path))
        new, self._rows, self._size = rows[self._rows :], len(rows), size
        return new


def view_of(name: str) -> Line | Lines:
    """What fits to where standard output goes."""
    from rich.console import Console

    console = Console(highlight=False)
    return Line(console, name) if console.is_terminal and not console.is_dumb_terminal else Lines()


class Line:
    """On a terminal: name, bar and figures in one line at the bottom, and above it what happened."""

    def __init__(self, console: Any, name: str):
        from rich.live import Live

        self.console, self.name = console, name
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Line:
        self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._live.stop()

    def show(self, heartbeat: dict) -> None:
        from rich.text import Text

        name, figures = Text(f"{self.name}  ", "bold", end=""), Text(describe(heartbeat), "dim")
        figures.highlight_regex(r"\d[\d.,:/]*", "not dim cyan")
        line = Text.assemble(name, self._bar(heartbeat, name.cell_len + figures.cell_len), figures)
        line.truncate(self.console.width, overflow="ellipsis")
        self._live.update(line, refresh=True)

    def tell(self, text: str) -> None:
        self.console.print(text, style="dim", markup=False, soft_wrap=True)

    def _bar(self, heartbeat: dict, taken: int) -> Any:
        """As wide as there is room."""
        from rich.text import Text

        width = min(WIDEST_BAR, self.console.width - taken - 2)
        if width < NARROWEST_BAR:
            return Text()
        done = round(width * min(1.0, heartbeat["step"] / max(1, heartbeat["max_iters"])))
        full, empty = ("━", "─") if self.console.encoding.lower().startswith("utf") else ("#", "-")
        return Text.assemble((full * done, "cyan"), (empty * (width - done), "dim"), "  ")


class Lines:
    """In a pipe or a file: a line every ten seconds, and one for each thing that happens."""

    def __init__(self):
        self._next, self._last = 0.0, ""

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: Any) -> None: ...

    def show(self, heartbeat: dict) -> None:
        text = describe(heartbeat)
        if time.monotonic() >= self._next and heartbeat.get("loss") is not None and text != self._last:
            self._next, self._last = time.monotonic() + LINE_SECONDS, text
            self.tell(text)

    def tell(self, text: str) -> None:
        try:
            print(" ".join(text.split("\n")), flush=True)
        except BrokenPipeError:  # the reader, such as `head`, has seen enough; the training goes on
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def draw(folder: Path) -> None:
    """loss.svg; without it nothing is lost."""
    from nanogpt import plots

    if not (folder / "metrics.jsonl").is_file():
        return
    try:
        plots.loss_plot(folder, folder / "loss.svg")
    except Exception as error:
        print(f"no loss plot: {type(error).__name__}: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Past(int(sys.argv[2]), int(sys.argv[3]))))
