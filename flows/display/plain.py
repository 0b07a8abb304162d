"""Runs everything and shows nothing: `--no-ui`, or no server to be had. Other displays are built on it."""

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.display.protocol import BackgroundStep, Level, Opening, Row, T, TrainingProgress


@dataclass
class Scope:
    """A flow or phase that is running: its background steps, how many of its steps were kept, its phases' failures."""

    background: list[BackgroundStep[Any]] = field(default_factory=list)
    steps: int = 0
    kept: int = 0
    failures: list[str] = field(default_factory=list)


class PlainDisplay:
    """Keeps track of the scopes, runs what is to run in the background, and shows nothing."""

    def __init__(self) -> None:
        self._scope: contextvars.ContextVar[Scope] = contextvars.ContextVar("scope")
        self._outside = Scope()

    @property
    def url(self) -> str | None:
        return None

    @property
    def scope(self) -> Scope:
        """The phase or flow that this thread is in."""
        return self._scope.get(self._outside)

    def flow(self, function: Callable[[], T], opening: Opening) -> T:
        with self.within(Scope()) as scope:
            return run_and_join(function, scope)

    def settle(self) -> None: ...

    def phase(self, label: str, function: Callable[[], T]) -> T:
        with self.within(Scope()) as scope:
            return run_and_join(function, scope)

    def step(self, title: str, function: Callable[[], T]) -> T:
        return function()

    def step_kept(self, title: str, reason: str) -> None: ...

    def start_in_background(self, title: str, function: Callable[[], T]) -> BackgroundStep[T]:
        # A daemon, not a pool: a pool's threads hold back the end of an interrupted process.
        step = BackgroundStep[T]()
        context = contextvars.copy_context()

        def work() -> None:
            try:
                step.set_result(context.run(function))
            except BaseException as error:
                step.set_exception(error)

        self.scope.background.append(step)
        threading.Thread(target=work, name=title, daemon=True).start()
        return step

    def forecast(self, planned: Mapping[str, float]) -> None: ...

    def progress(self, progress: TrainingProgress) -> None: ...

    def markdown(self, key: str, text: str, description: str = "") -> None: ...

    def table(self, key: str, rows: Sequence[Row], description: str = "") -> None: ...

    def image(self, key: str, file: Path, description: str = "") -> None: ...

    def note(self, message: str, level: Level = "info") -> None: ...

    @contextlib.contextmanager
    def within(self, scope: Scope) -> Iterator[Scope]:
        token = self._scope.set(scope)
        try:
            yield scope
        finally:
            self._scope.reset(token)


def run_and_join(function: Callable[[], T], scope: Scope) -> T:
    """Run `function`, then wait for its background steps; a failure of theirs that nobody asked for is raised.

    An interrupt waits for nothing.
    """
    try:
        value = function()
    except Exception:
        for step in scope.background:
            step.exception()
        raise
    for step in scope.background:
        failure = step.exception()
        if failure is not None and not step.asked:
            raise failure
    return value
