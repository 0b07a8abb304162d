"""Texts that a person types, with a history and over several lines, or that come through a pipe."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, ModuleType
from typing import TextIO

from nanogpt.faults import UserError
from nanogpt.printable import printable

BLOCK = '"""'  # begins and ends a text of several lines
CONTINUED = "\\"  # at the end of a line: another one follows
MORE = "... "
HISTORY_LINES = 1000
MOST_TYPED = 64_000_000  # characters
BOLD, DIM, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


class Typed:
    """Asks for one text after another. As a context manager it begins with the lines of `history` and adds to them.

    Lines of a pipe are written to stdout as if they were typed there.
    """

    def __init__(self, history: Path | None = None, words: Sequence[str] = ()) -> None:
        """`words`: what the tab key completes at the beginning of a line."""
        self.is_terminal = sys.stdin.isatty()
        self._history, self._words = history, words
        self._readline: ModuleType | None = None
        self._lines_before = 0
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="surrogateescape")  # bytes that are no text are named, not a traceback

    def __enter__(self) -> Typed:
        if not self.is_terminal:
            return self
        try:
            import readline  # gives input() keys and a history. Not above: it may write to the terminal
        except ImportError:  # some builds of Python come without
            return self
        self._readline = readline
        readline.set_completer(self._completion)
        readline.set_completer_delims("\n")
        is_libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")
        if self._history:
            with contextlib.suppress(OSError):  # none yet, or not readable: the talk is what matters
                readline.read_history_file(self._history)
        self._lines_before = readline.get_current_history_length()
        return self

    def __exit__(self, *_: object) -> None:
        if not (self._readline and self._history):
            return
        with contextlib.suppress(OSError):
            self._history.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self._history, os.O_CREAT | os.O_WRONLY, 0o600))  # what is typed is private
            self._readline.set_history_length(HISTORY_LINES)
            typed = self._readline.get_current_history_length() - self._lines_before
            self._readline.append_history_file(typed, self._history)

    def each(self, prompt: Callable[[], str], take: Callable[[str], None]) -> None:
        """Give each text to `take` until the input ends, or a terminal's Ctrl-C comes twice in a row.

        A person's mistake is a note, and the next text is asked for.
        """
        was_interrupted = False
        while True:
            try:
                text = self.ask(prompt())
                was_interrupted = False
                take(text)
            except UserError as error:
                note(str(error))
            except EOFError:
                return
            except KeyboardInterrupt:
                if not self.is_terminal:
                    raise
                print()
                if was_interrupted:
                    return
                was_interrupted = True
                note("Ctrl-C once more, or Ctrl-D, leaves.")

    def ask(self, prompt: str) -> str:
        """The next text. Raises EOFError at the end of the input, KeyboardInterrupt at Ctrl-C."""
        line = self._line(prompt)
        if line.strip().startswith(BLOCK):
            return self._block(line.strip().removeprefix(BLOCK))
        lines = [line]
        while lines[-1].endswith(CONTINUED):
            lines[-1] = lines[-1].removesuffix(CONTINUED)
            lines.append(self._line(MORE, at_end=""))
        return "\n".join(lines)

    def _block(self, first: str) -> str:
        lines = [first]
        while not lines[-1].rstrip().endswith(BLOCK):
            lines.append(self._line(MORE, at_end=BLOCK))
        lines[-1] = lines[-1].rstrip().removesuffix(BLOCK)
        return "\n".join(lines).strip("\n")

    def _line(self, prompt: str, at_end: str | None = None) -> str:
        """A line; `at_end` in place of the EOFError that the end of the input raises."""
        if self._readline and is_coloured(sys.stdout):
            prompt = f"\x01{BOLD}\x02{prompt}\x01{PLAIN}\x02"  # readline counts the columns between \2 and \1
        try:
            line = input(prompt)
        except EOFError:
            print()
            if at_end is None:
                raise
            return at_end
        if not self.is_terminal:
            print(line, flush=True)
        return line

    def _completion(self, text: str, state: int) -> str | None:
        fitting = [word for word in self._words if word.startswith(text)] if text else []
        return fitting[state] if state < len(fitting) else None


class InterruptNoticed:
    """Meanwhile a first Ctrl-C only sets `came`, so that nothing is left half done; a second one is as usual."""

    came = False

    def __enter__(self) -> InterruptNoticed:
        self._before = signal.getsignal(signal.SIGINT)
        if self._before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _notice(self, _number: int, _frame: FrameType | None) -> None:
        if self.came:
            raise KeyboardInterrupt
        self.came = True


def note(words: str) -> None:
    """What is neither a person's words nor the model's: on stderr, on a terminal wrapped between words."""
    if sys.stderr.isatty():
        width = max(1, shutil.get_terminal_size().columns - 1)
        words = textwrap.fill(printable(words), width, break_on_hyphens=False)
    print(f"{DIM}{words}{PLAIN}" if is_coloured(sys.stderr) else words, file=sys.stderr, flush=True)


def is_coloured(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that takes colours (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def history_file(name: str) -> Path:
    """Where a command keeps what was typed to it: the XDG specification's folder for a program's state."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "nanogpt" / name


def rest_of_stdin() -> str:
    """All of stdin, without the line end that `echo` adds. Raises UserError where it is not text, or has no end."""
    return all_of(sys.stdin, "standard input").removesuffix("\n")


def all_of(stream: TextIO, name: str) -> str:
    """What is left in `stream`. Raises UserError where that is not text, or has no end, as /dev/zero."""
    try:
        text = stream.read(MOST_TYPED + 1)
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: byte {error.start + 1} is not text in UTF-8") from None
    if len(text) > MOST_TYPED:
        raise UserError(f"{name}: holds more than {MOST_TYPED:,} characters, which is more than it may")
    return text
