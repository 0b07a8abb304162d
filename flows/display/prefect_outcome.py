"""What became of a function, and the Prefect state that shows it.

Import after `prefect_server.connect`: Prefect reads its settings when it is imported.
"""

import traceback
from collections.abc import Callable
from typing import Any, Generic, cast

from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed

from flows.display.plain import Scope
from flows.display.protocol import LeftOut, T, one_line
from nanogpt.faults import UserError

DISPLAY_FILES = ("flows/display/plain.py", "flows/display/terminal.py", "flows/display/prefect_display.py",
                 "flows/display/prefect_outcome.py")  # fmt: skip


class Call(Generic[T]):
    """One execution of a function, whoever asks for it and however often."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self.started = False
        self._value: T | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        if self.started:
            return
        self.started = True
        try:
            self._value = self._function()
        except BaseException as error:
            self.error = error

    def result(self) -> T:
        self.run()
        if self.error is not None:
            raise self.error
        return cast(T, self._value)

    @property
    def left_out(self) -> str:
        """Why a step's work was not done; "" otherwise."""
        return self._value.reason if isinstance(self._value, LeftOut) else ""

    @property
    def was_interrupted(self) -> bool:
        return self.error is not None and not isinstance(self.error, Exception)


def cached(reason: str) -> State[Any]:
    return Completed(name="Cached", message=reason)


def task_state(call: Call[T], message: str | None = None) -> State[Any]:
    if call.left_out:
        return Completed(name="Left out", message=call.left_out)
    if call.error is None:
        return Completed(message=message)
    if call.was_interrupted:
        return Cancelled(message="stopped; the same command continues from here")
    return Failed(name=getattr(call.error, "shown_as", "Failed"), message=one_line(call.error))


def flow_state(call: Call[T], scope: Scope) -> State[Any]:
    if call.error is None and scope.failures:
        return Failed(message="; ".join(scope.failures))
    return task_state(call)


def explanation(error: Exception) -> str:
    """What a step's log says of `error`: a known kind speaks for itself, others with where they arose."""
    if isinstance(error, UserError) or hasattr(error, "shown_as"):
        return one_line(error)
    whole = traceback.TracebackException.from_exception(error)
    part: traceback.TracebackException | None = whole
    while part is not None:
        frames = [frame for frame in part.stack if not frame.filename.endswith(DISPLAY_FILES)]
        part.stack = traceback.StackSummary.from_list(frames)
        part = part.__cause__ or part.__context__
    return "".join(whole.format()).rstrip()
