"""A talk with a model that continues text: it is written as a play, in which the model speaks the next part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]
_BLANK_LINES = re.compile(r"\n\s*\n")


@dataclass(frozen=True)
class Message:
    """One turn of a talk."""

    role: Role
    content: str


@dataclass(frozen=True)
class Play:
    """Two parts of a play. A part's words stand below its name and end with an empty line.

    On a play such as tiny Shakespeare this is the form of the training text itself.
    """

    user: str = "ROMEO"
    assistant: str = "JULIET"

    def prompt(self, messages: Sequence[Message]) -> str:
        """The play so far; it ends where the assistant's next words begin.

        Every beginning of a talk gives a beginning of this text, so a prefix cache has read most of it before.
        """
        return "".join(map(self._paragraph, messages)) + _heading(self.assistant)

    @property
    def stops(self) -> tuple[str, ...]:
        """What ends the assistant's words: the empty line, or the user's name where the model leaves that out."""
        return ("\n\n", f"\n{_heading(self.user)}")

    def _paragraph(self, message: Message) -> str:
        content = message.content.strip()
        if message.role == "system":
            return f"{content}\n\n" if content else ""
        name = self.user if message.role == "user" else self.assistant
        words = _BLANK_LINES.sub("\n", content)  # an empty line would end the part
        return f"{_heading(name)}{words}\n\n" if words else f"{_heading(name)}\n"


def _heading(name: str) -> str:
    return f"{name}:\n"
