"""What a run shows of itself: its phases and steps as they go.

Phases know only `Display`. Here is the one that shows nothing; prefect_display.py has the one with pages.
Whatever a display does, each function given to it runs exactly once and its result or exception reaches the
caller. An exception with an attribute `shown_as` ("Blocked") is shown under that name instead of Failed.
"""

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Protocol

from flows.display.prefect_server import Server

Function = Callable[[], Any]
Log = Callable[[str], None]


class Display(Protocol):
    """What phases see. Titles are shown to people; a key names what is shown again and again."""

    @property
    def url(self) -> str | None:
        """The page of this run, None without a server."""

    @property
    def pages(self) -> "Display":
        """The pages alone, for what the terminal shows in its own way."""

    def flow(self, function: Function, run_name: str, tags: list[str]) -> Any:
        """Run `function` as the flow and return what it returns."""

    def phase(self, number: int, title: str, function: Function) -> Any:
        """Run `function` as the task "1 Environment"; all steps kept makes it Cached."""

    def step(self, title: str, function: Function, kept_reason: str | None = None) -> Any:
        """Run `function` as a task within the phase. With `kept_reason` it isn't run: the task is Cached."""

    def beside(self, title: str, function: Function) -> "Beside":
        """Run `function` as a task in a thread, beside what follows. The phase or flow around it waits for it."""

    def progress(self, key: str, fraction: float, description: str) -> None:
        """Show how much of something is done: `fraction` in 0..1."""

    def markdown(self, key: str, text: str, description: str = "") -> None:
        """Show a Markdown document."""

    def table(self, key: str, rows: list[dict[str, Any]], description: str = "") -> None:
        """Show rows under the columns that their keys name."""

    def link(self, key: str, url: str, text: str, description: str = "") -> None:
        """Show a link."""

    def note(self, message: str, level: str = "info") -> None:
        """Write a line to the log of the current step, phase or flow."""


def open_display(server: Server | None, log: Log) -> Display:
    """The display on `server`, or the one that shows nothing."""
    if server is None:
        return PlainDisplay()
    from flows.display.prefect_display import PrefectDisplay

    return PrefectDisplay(server, log)


class Beside(Future):
    """The outcome of a function that runs in a thread; knows whether anybody asked for it."""

    asked = False

    def result(self, timeout: float | None = None) -> Any:
        self.asked = True
        return super().result(timeout)


class Scope:
    """A flow or phase in progress: what it started beside itself, and how many of its steps were kept."""

    def __init__(self) -> None:
        self.beside: list[Beside] = []
        self.steps = 0
        self.kept = 0
        self.failures: list[str] = []


class Call:
    """One execution of a function, whoever asks for it and however often."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self.started = False
        self._value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        if self.started:
            return
        self.started = True
        try:
            self._value = self._function()
        except BaseException as error:
            self.error = error

    def result(self) -> Any:
        self.run()
        if self.error is not None:
            raise self.error
        return self._value


class PlainDisplay:
    """Runs everything and shows nothing: `--no-ui`, or no server to be had."""

    url: str | None = None

    def __init__(self) -> None:
        self._scope: contextvars.ContextVar[Scope] = contextvars.ContextVar("scope")
        self._outside = Scope()

    @property
    def scope(self) -> Scope:
        """The phase or flow that this thread is in."""
        return self._scope.get(self._outside)

    @property
    def pages(self) -> Display:
        return self

    def flow(self, function: Function, run_name: str, tags: list[str]) -> Any:
        with self.within(Scope()) as scope:
            return with_company(function, scope)

    def phase(self, number: int, title: str, function: Function) -> Any:
        with self.within(Scope()) as scope:
            return with_company(function, scope)

    def step(self, title: str, function: Function, kept_reason: str | None = None) -> Any:
        return None if kept_reason is not None else function()

    def beside(self, title: str, function: Function) -> Beside:
        return self.in_thread(title, function)

    def progress(self, key: str, fraction: float, description: str) -> None: ...

    def markdown(self, key: str, text: str, description: str = "") -> None: ...

    def table(self, key: str, rows: list[dict[str, Any]], description: str = "") -> None: ...

    def link(self, key: str, url: str, text: str, description: str = "") -> None: ...

    def note(self, message: str, level: str = "info") -> None: ...

    @contextlib.contextmanager
    def within(self, scope: Scope) -> Iterator[Scope]:
        token = self._scope.set(scope)
        try:
            yield scope
        finally:
            self._scope.reset(token)

    def in_thread(self, title: str, function: Function) -> Beside:
        # A daemon, not a pool: a pool's threads hold back the end of an interrupted process.
        future = Beside()
        context = contextvars.copy_context()

        def work() -> None:
            try:
                future.set_result(context.run(function))
            except BaseException as error:
                future.set_exception(error)

        self.scope.beside.append(future)
        threading.Thread(target=work, name=title, daemon=True).start()
        return future


def with_company(function: Function, scope: Scope) -> Any:
    """Run `function`, then wait for what it started beside itself; a failure there that nobody asked for is raised.

    An interrupt waits for nothing.
    """
    try:
        value = function()
    except Exception:
        for future in scope.beside:
            future.exception()
        raise
    for future in scope.beside:
        failure = future.exception()
        if failure is not None and not future.asked:
            raise failure
    return value


def one_line(words: object) -> str:
    """A text or an exception in one line of bounded length. Other people's exceptions are named."""
    text = " ".join(str(words).split())[:500]
    if isinstance(words, KeyboardInterrupt):
        return "stopped by a person"
    speaks_for_itself = type(words).__module__.startswith(("flows.", "nanogpt.")) or hasattr(words, "shown_as")
    if not isinstance(words, BaseException) or (speaks_for_itself and text):
        return text
    return f"{type(words).__name__}: {text}" if text else type(words).__name__
