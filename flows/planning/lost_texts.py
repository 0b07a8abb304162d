"""Texts that could not be had after all when they were to be fetched: each is a reason to choose and to plan again.

The note lies in state/<run>/lost_texts.json, and counts for what was asked for when it was written.
"""

from __future__ import annotations

from pathlib import Path

from flows.ledger.steps import Json
from nanogpt import durable

FILE = "lost_texts.json"


class LostTexts:
    """`asked`: what the run was asked for that decides whether a text can be had, such as its mirrors."""

    def __init__(self, state: Path, asked: object):
        self._file, self._asked = state / FILE, durable.digest(asked)

    def note(self, name: str, reason: str) -> None:
        """Raises OSError."""
        durable.write_note(self._file, {"asked": self._asked, "lost": {**self.reasons(), name: reason}})

    def reasons(self) -> dict[str, str]:
        """Why, by the name of the text."""
        note, _ = durable.read_note(self._file)
        return dict(note["lost"]) if note and note.get("asked") == self._asked else {}

    def settings(self) -> Json:
        """Of a survey."""
        lost = sorted(self.reasons())
        return {"lost": lost} if lost else {}
