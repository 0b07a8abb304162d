"""What became of what was read: counted, with a few examples, so that nothing is left out in silence."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal

from nanogpt.results.text import Reading
from nanogpt.sources import mojibake
from nanogpt.sources.decoding import Decoded
from nanogpt.units import counted, percent

EXAMPLES = 5  # of each reason, with what was wrong
LONGEST = 200  # characters of what a file says that is shown
Reason = Literal["empty", "not_text", "too_long", "unreadable", "changed_while_read", "not_a_text_format"]


@dataclass
class Account:
    """Of one piece or of many: `add` joins them, in the order of the pieces."""

    documents: int = 0
    characters: int = 0
    formats: Counter[str] = field(default_factory=Counter)  # documents by format
    encodings: Counter[str] = field(default_factory=Counter)  # documents by Python's name
    readings: dict[str, Reading] = field(default_factory=dict)  # by encoding, where it was detected or bytes replaced
    repaired: int = 0  # documents in which mojibake was repaired
    left_out: Counter[str] = field(default_factory=Counter)  # by reason
    examples: dict[str, list[str]] = field(default_factory=dict)  # by reason: "name: what was found"

    def leave_out(self, reason: Reason, name: str, found: str) -> None:
        """Count something that is no document. `found`: what is wrong with it, in a few words."""
        self.left_out[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(f"{name}: {found[:LONGEST]}")

    def note(self, decoded: Decoded, name: str) -> None:
        """Count how a document was decoded; what a person should know of it is kept in `readings`."""
        self.encodings[decoded.encoding] += 1
        if decoded.confidence is not None or decoded.replaced:
            reading = Reading(decoded.encoding, 1, name, decoded.confidence, decoded.replaced)
            self._add_reading(reading)

    def mended(self, text: str) -> str:
        """`text` without mojibake; counts it where there was any."""
        better = mojibake.repaired(text)
        self.repaired += better != text
        return better

    def add(self, other: Account) -> None:
        """Add what `other` counted."""
        self.documents += other.documents
        self.characters += other.characters
        self.repaired += other.repaired
        self.formats += other.formats
        self.encodings += other.encodings
        self.left_out += other.left_out
        for reading in other.readings.values():
            self._add_reading(reading)
        for reason, lines in other.examples.items():
            self.examples[reason] = [*self.examples.get(reason, []), *lines][:EXAMPLES]

    def remarks(self) -> list[str]:
        """What a person should know of what was left out, a line a reason."""
        lines = []
        for reason, count in sorted(self.left_out.items()):
            more = f", and {count - 1:,} more" if count > 1 else ""
            lines.append(f"left out as {reason.replace('_', ' ')}: {self.examples[reason][0]}{more}")
        return lines + self.repairs()

    def repairs(self) -> list[str]:
        """What was mended in the texts that were read."""
        return [f"mojibake repaired in {counted(self.repaired, 'document')}"] if self.repaired else []

    def _add_reading(self, reading: Reading) -> None:
        before = self.readings.get(reading.encoding)
        if before is None:
            self.readings[reading.encoding] = reading
            return
        known = [value for value in (before.confidence, reading.confidence) if value is not None]
        self.readings[reading.encoding] = replace(
            before,
            documents=before.documents + reading.documents,
            confidence=min(known, default=None),
            replaced=before.replaced + reading.replaced,
        )


def remark_on(reading: Reading) -> str:
    """What a person should know of how documents were read."""
    others = f" and {reading.documents - 1:,} more" if reading.documents > 1 else ""
    line = f"{reading.example}{others}: read as {reading.encoding}"
    if reading.confidence is not None:
        line += f", which was detected (confidence {percent(reading.confidence, 0)}; data.encoding names another)"
    if reading.replaced:
        line += f"; {reading.replaced:,} damaged {'place is' if reading.replaced == 1 else 'places are'} U+FFFD now"
    return line
