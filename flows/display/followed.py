"""What happens in a run, in order, for whoever shows it: news in a queue, so that the run never waits for a page."""

import queue
import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, TypeAlias

from flows.display.plain import Scope
from flows.display.protocol import LeftOut, Level, one_line
from nanogpt.faults import UserError

ArtifactKind = Literal["progress", "markdown", "table", "image"]
DISPLAY_FILES = ("flows/display/plain.py", "flows/display/terminal.py", "flows/display/prefect_display.py")


@dataclass(frozen=True)
class Line:
    """A line of a log."""

    message: str
    level: Level
    time: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class Artifact:
    """What is shown under `key`, in the place of what was before; without a key on the page of its task alone."""

    key: str | None
    kind: ArtifactKind
    data: str | float
    description: str = ""


@dataclass(frozen=True)
class Begun:
    """A phase or a step has begun within what is followed. `in_background`: next to what follows."""

    what: "Followed"
    in_background: bool = False


@dataclass(frozen=True)
class Ending:
    """How a flow, phase or step ended; nothing comes after it. `name`: of a state that Prefect does not know."""

    kind: Literal["COMPLETED", "FAILED", "CANCELLED"]
    message: str | None = None
    name: str | None = None


News: TypeAlias = Line | Artifact | Begun | Ending


class Followed:
    """A flow, phase or step that is under way. `page`: where it is shown, once it is."""

    def __init__(self, title: str):
        self.title = title
        self.page = ""
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()

    def tell(self, news: News) -> None:
        self._news.put(news)

    def next_news(self) -> News:
        """Wait for what happens next."""
        return self._news.get()


def kept(reason: str) -> Ending:
    return Ending("COMPLETED", reason, "Cached")


def ending_of(value: object, error: BaseException | None, message: str | None = None) -> Ending:
    """Of a phase or step that returned `value`, or raised `error`."""
    if error is None:
        return (
            Ending("COMPLETED", value.reason, "Left out")
            if isinstance(value, LeftOut)
            else Ending("COMPLETED", message)
        )
    if not isinstance(error, Exception):
        return Ending("CANCELLED", "stopped; the same command continues from here")
    return Ending("FAILED", one_line(error), getattr(error, "shown_as", None))


def flow_ending(error: BaseException | None, scope: Scope) -> Ending:
    if error is None and scope.failures:
        return Ending("FAILED", "; ".join(scope.failures))
    return ending_of(None, error)


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
