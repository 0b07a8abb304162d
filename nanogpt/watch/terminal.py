"""The view in a terminal: a screen that follows what happens, or lines where there is no screen."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nanogpt.printable import printable
from nanogpt.units import byte_size, clock
from nanogpt.watch.chart import CURVE_STYLE, POINT, POINT_STYLE, loss_chart
from nanogpt.watch.views import ModelView, PhaseView, View, headline, in_a_line, state_of
from nanogpt.watch.watched import Watched

LOOK_SECONDS = 1.0
LINE_SECONDS = 10.0  # between lines in a pipe
MOST_CHART_LINES, MOST_SAMPLE_LINES, MOST_HAPPENINGS = 20, 8, 6
LEAST_CHART_LINES = 4
PHASE_MARKS = {
    "done": ("✓", "green"),
    "failed": ("✗", "bold red"),
    "running": ("▶", "bold cyan"),
    "waiting": ("·", "dim"),
}
MODEL_STYLES = {"training": "cyan", "finished": "green", "failed": "bold red", "silent": "yellow", "stopped": "yellow"}
NARROW = 100  # columns: below, a table has fewer of them
LEAST_WIDTHS = {"tokens/s": 66, "memory": 80, "bits/byte": NARROW}  # where a column of the table has room


def watch(watched: Watched, once: bool = False) -> int:
    """Show until what is watched ends, or a person has seen enough; the exit code. `once` shows it as it is now."""
    console = Console(highlight=False)
    view = watched.view()
    with _asked_to_end() as end:
        if once or view.is_over or view.is_silent:
            console.print(screen(view, console.width, None, _draws(console)))
        elif console.is_terminal and not console.is_dumb_terminal:
            view = _follow_on_screen(watched, console, end)
            console.print(screen(view, console.width, None, _draws(console)))
        else:
            view = _follow_in_lines(watched, end)
    if view.is_silent:
        console.print("Nothing works on it now; where it was stopped, the command that started it continues it.")
    return 0


@contextmanager
def _asked_to_end() -> Iterator[threading.Event]:
    """Set by Ctrl-C and SIGTERM, which end the view and nothing else."""
    end = threading.Event()

    def note(_number: int, _frame: FrameType | None) -> None:
        end.set()

    handlers = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield end
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _follow_on_screen(watched: Watched, console: Console, end: threading.Event) -> View:
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            view = watched.view()
            width, height = console.size
            live.update(screen(view, width, height - 1, _draws(console)), refresh=True)
            if view.is_over or end.wait(LOOK_SECONDS):
                return view


def _follow_in_lines(watched: Watched, end: threading.Event) -> View:
    """A line every ten seconds and one for each thing that happens, as a log wants it."""
    seen, next_line, last = len(watched.view().happenings), 0.0, ""
    known = {(one.time, one.where, one.what) for one in watched.view().happenings[:seen]}
    while True:
        view = watched.view()
        for one in view.happenings:
            if (one.time, one.where, one.what) not in known:
                known.add((one.time, one.where, one.what))
                print(printable(f"{one.where}: {one.what}"), flush=True)
        model = view.shown_model
        line = printable(in_a_line(model)) if model else headline(view)
        if (time.monotonic() >= next_line and line != last) or view.is_over:
            next_line, last = time.monotonic() + LINE_SECONDS, line
            print(line, flush=True)
        if view.is_over or end.wait(LOOK_SECONDS):
            return view


def _draws(console: Console) -> bool:
    """Whether the terminal can show braille."""
    return console.encoding.lower().startswith("utf")


def screen(view: View, width: int, height: int | None, draws: bool = True) -> RenderableType:
    """All of the view in at most `height` lines; None: as many as it takes."""
    heading: list[RenderableType] = [_heading(view, width)]
    if view.run is not None:
        heading.append(_phases(view.run.phases, width))
    heading += [_models(view, width)]
    taken = len(heading) + max(1, len(view.models))  # the table has a line of titles
    left = (height if height is not None else 10_000) - taken
    happenings = _happenings(view, width, min(MOST_HAPPENINGS, max(1, left // 5)))
    left -= len(happenings) + bool(happenings)
    model = view.shown_model
    sample = _sample(model, width, min(MOST_SAMPLE_LINES, max(0, left // 4))) if model else []
    left -= len(sample) + bool(sample)
    chart = _chart(model, width, min(MOST_CHART_LINES, left - 1)) if model and draws else []
    parts = [part for part in (chart, sample, happenings) if part]
    return Group(*heading, *(line for part in parts for line in (Text(), *part)))


def _heading(view: View, width: int) -> Text:
    line = Text(printable(headline(view)), "bold")
    line.truncate(width, overflow="ellipsis")
    return line


def _phases(phases: list[PhaseView], width: int) -> Text:
    named = Text("  ").join(Text(f"{PHASE_MARKS[phase.state][0]} {phase.title}", _style(phase)) for phase in phases)
    if named.cell_len <= width:
        return named
    line = Text()
    for phase in phases:
        line.append(f"{PHASE_MARKS[phase.state][0]} ", _style(phase))
    at = next((phase for phase in phases if phase.state == "running"), None)
    if at is not None:
        line.append(f" {at.number} of {len(phases)}: {at.title}", "bold cyan")
    line.truncate(width, overflow="ellipsis")
    return line


def _style(phase: PhaseView) -> str:
    return PHASE_MARKS[phase.state][1]


def _models(view: View, width: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("model", no_wrap=True, max_width=max(8, width // 4), overflow="ellipsis")
    table.add_column("state", no_wrap=True, max_width=max(10, width // 4), overflow="ellipsis")
    left_or_time = "left" if not view.is_over else "time"
    titles = ["step", "loss", "val", "tokens/s", "memory", left_or_time, "bits/byte"]
    titles = [title for title in titles if width >= LEAST_WIDTHS.get(title, 0)]
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for model in view.models:
        left = model.seconds if view.is_over else None if model.is_over else model.eta_seconds
        figures = {
            "step": model.step_of if model.step or model.expected_steps else "",
            "loss": f"{model.loss:.3f}" if model.loss is not None else "",
            "val": f"{model.val_loss:.4f}" if model.val_loss is not None else "",
            "tokens/s": f"{model.tokens_per_second:,.0f}" if model.tokens_per_second else "",
            "memory": byte_size(model.memory_bytes) if model.memory_bytes else "",
            left_or_time: clock(left) if left is not None and model.state != "waiting" else "",
            "bits/byte": f"{model.bits_per_byte:.3f}" if model.bits_per_byte is not None else "",
        }
        cells = [_figure(figures[title]) for title in titles]
        name, state = Text(printable(model.name), "bold"), Text(printable(state_of(model)))
        state.stylize(MODEL_STYLES.get(model.state, "dim"))
        table.add_row(name, state, *cells)
    if not view.models:
        table.add_row(Text("–"), Text("no model has begun", "dim"))
    return table


def _figure(text: str) -> Text:
    return Text(text or "–", "" if text else "dim")


def _chart(model: ModelView, width: int, height: int) -> list[Text]:
    if height < LEAST_CHART_LINES:
        return []
    lines = loss_chart(model.smooth, model.validation, width, height - 1)
    if not lines:
        return []
    title = Text.assemble(
        (f"loss of {printable(model.name)}  ", "bold"),
        ("⠒⠒ training, smoothed  ", CURVE_STYLE),
        (f"{POINT} validation", POINT_STYLE),
    )
    title.truncate(width, overflow="ellipsis")
    return [title, *lines]


def _sample(model: ModelView, width: int, lines: int) -> list[Text]:
    """The latest sample, its first lines."""
    if not model.samples or lines < 2:
        return []
    sample = model.samples[-1]
    title = f"{printable(model.name)} at step {sample.step:,} writes (temperature {sample.temperature:g})"
    text = [line for line in printable(sample.text).expandtabs().splitlines() if line.strip()]
    return [_cut(title, width, "bold"), *(_cut(f"  {line}", width) for line in text[: lines - 1])]


def _happenings(view: View, width: int, lines: int) -> list[Text]:
    found = []
    for one in view.happenings[-lines:]:
        when = time.strftime("%H:%M:%S", time.localtime(one.time))
        line = _cut(f"{when}  {one.where}  {one.what}", width, "yellow" if one.is_trouble else "dim")
        found.append(line)
    return found


def _cut(text: str, width: int, style: str = "") -> Text:
    line = Text(" ".join(printable(text).split("\n")), style)
    line.truncate(width, overflow="ellipsis")
    return line
