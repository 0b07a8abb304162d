"""What would be read of a person's own texts, what not and why, before anything is made of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from nanogpt.sources import own, own_pieces, reading
from nanogpt.sources.account import Account
from nanogpt.sources.cleaning import obstacle
from nanogpt.sources.formats.family import Wanted
from nanogpt.spelling import spelled


@dataclass
class Checked:
    """What was found. `pieces_read` of `pieces` were read; `alphabet` is what distinct characters there are."""

    files: int
    bytes: int
    pieces: int
    pieces_read: int = 0
    account: Account = field(default_factory=Account)
    outputs: list[str] = field(default_factory=list)  # folders that this project or a tool wrote
    alphabet: set[str] = field(default_factory=set)
    repeated: int = 0  # documents that are another one's text over again
    shortest: int | None = None  # characters of a document
    longest: int | None = None

    @property
    def obstacle(self) -> str:
        """Why nothing can be learned from it; "" where something can."""
        if not self.account.documents:
            return "none of it can be read as text"
        return obstacle(self.account.characters, self.alphabet)


def check(source: str, wanted: Wanted, most_characters: int) -> Checked:
    """Read `source`, a person's own, piece by piece until `most_characters` were read.

    Raises UserError as own.find_own does.
    """
    search = own.Search()
    pieces, account = own_pieces.found_pieces(source, wanted, search), search.account
    files, size = own.measure(source)
    found = Checked(files, size, len(pieces), account=account, outputs=sorted(map(spelled, search.outputs)))
    seen = set[bytes]()
    for piece in pieces:
        for document in reading.read(piece, account):
            _note(document.text, found, seen)
        found.pieces_read += 1
        if account.characters >= most_characters:
            break
    return found


def _note(text: str, found: Checked, seen: set[bytes]) -> None:
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
    found.repeated += digest in seen
    seen.add(digest)
    found.alphabet.update(text)
    found.shortest = min(len(text), found.shortest or len(text))
    found.longest = max(len(text), found.longest or 0)
