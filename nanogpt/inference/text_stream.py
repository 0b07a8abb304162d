"""Text as its tokens come: pieces of whole characters, up to the first stop."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from nanogpt.tokenizers.tokenizer import Tokenizer


class TextStream:
    """One text. `ended` turns true at the tokenizer's end of text and at a stop, which is left out."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()):
        self.ended = False
        self._tokenizer, self._stops = tokenizer, stops
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._waiting = ""  # may be the beginning of a stop

    def copied(self) -> TextStream:
        """The same text so far, to go on otherwise."""
        copy = TextStream(self._tokenizer, self._stops)
        copy._decoder.setstate(self._decoder.getstate())
        copy.ended, copy._waiting = self.ended, self._waiting
        return copy

    def write(self, token: int) -> str:
        """What can be shown once `token` is there; "" in the middle of a character or of what may be a stop."""
        if token == self._tokenizer.end_of_text:
            self.ended = True
            return self.rest()
        return self.add(self._decoder.decode(self._tokenizer.decode_bytes([token])))

    def add(self, text: str) -> str:
        """write() of characters."""
        if not self._stops:
            return text
        text = self._waiting + text
        if found := [text.index(stop) for stop in self._stops if stop in text]:
            self.ended, self._waiting = True, ""
            return text[: min(found)]
        ready = len(text) - max((_begun(stop, text) for stop in self._stops), default=0)
        self._waiting = text[ready:]
        return text[:ready]

    def rest(self) -> str:
        """What waited for the rest of a stop that does not come any more; half a character is left out."""
        waiting, self._waiting = self._waiting, ""
        return waiting


def _begun(stop: str, text: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
