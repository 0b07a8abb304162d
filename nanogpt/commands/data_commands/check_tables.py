"""What `nanogpt data check` prints."""

from __future__ import annotations

from collections.abc import Mapping

from nanogpt.corpus.fates import MEANINGS, Fate
from nanogpt.printable import printable
from nanogpt.sources.account import remark_on
from nanogpt.sources.checking import Checked
from nanogpt.units import byte_size, counted

ADVICE = {
    "not_text": "--set data.encoding=NAME names the encoding of texts that are not UTF-8",
    "not_a_text_format": "a file of text that ends otherwise is read when its own path is given",
}


def show_checked(source: str, found: Checked) -> None:
    """Sizes, formats, encodings, and each reason why something is left out, with examples."""
    account = found.account
    _say(f"{source}: {counted(found.files, 'file')}, {byte_size(found.bytes)}")
    if found.pieces_read < found.pieces:
        _say(f"  read: the first {found.pieces_read:,} of {found.pieces:,} pieces; --all reads the rest too")
    documents = counted(account.documents, "document")
    _say(f"  {documents}, {account.characters:,} characters, {len(found.alphabet):,} distinct")
    if account.documents:
        _say(f"  the shortest document has {found.shortest:,} characters, the longest {found.longest:,}")
        _say(f"  formats:   {_counts(account.formats)}")
        _say(f"  encodings: {_counts(account.encodings)}")
    if found.repeated:
        _say(f"  {counted(found.repeated, 'document')} with the text of another one: prepare keeps one of each")
    for encoding in sorted(account.readings):
        _say(f"  {remark_on(account.readings[encoding])}")
    if account.repaired:
        _say(f"  mojibake is repaired in {counted(account.repaired, 'document')}")
    if found.outputs:
        folders = counted(len(found.outputs), "folder")
        _say(f"left out, {folders} that nanogpt or a tool wrote: {', '.join(found.outputs[:3])}")
    for reason, count in account.left_out.most_common():
        _say(f"left out, {MEANINGS[Fate(reason)]}: {count:,}")
        for example in account.examples[reason]:
            _say(f"    {example}")
        if reason in ADVICE:
            _say(f"    {ADVICE[reason]}")


def _counts(counted: Mapping[str, int]) -> str:
    return ", ".join(
        f"{name} {count:,}" for name, count in sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    )


def _say(line: str) -> None:
    print(printable(line))
