"""ZIP archives: which members hold texts, without trusting what the archive says of itself."""

from __future__ import annotations

import zipfile

from nanogpt.sources.formats.compressed import Allowance, limited
from nanogpt.sources.formats.family import LONGEST, TooLong, Unreadable
from nanogpt.units import MIB


def members(archive: zipfile.ZipFile, packed: int) -> list[zipfile.ZipInfo]:
    """The files in an archive of `packed` bytes, in the order of their names, hidden ones left out.

    Raises Unreadable for one that expands too far: no more comes out of a member than the archive says.
    """
    files = [
        info
        for info in archive.infolist()
        if info.filename  # without a name, is_dir() raises IndexError
        and not info.is_dir()
        and not any(part.startswith((".", "__MACOSX")) for part in info.filename.split("/"))
    ]
    Allowance(packed).take(sum(info.file_size for info in files))
    return sorted(files, key=lambda info: info.filename)


def content(archive: zipfile.ZipFile, name: str, allowance: Allowance) -> bytes:
    """The bytes of a member. Raises TooLong, Unreadable."""
    try:
        with archive.open(name) as packed, limited(packed, allowance) as file:
            data = file.read(LONGEST + 1)
    except KeyError:
        raise Unreadable(f"has no {name}") from None
    if len(data) > LONGEST:
        raise TooLong(f"more than {LONGEST // MIB} MiB in {name}")
    return data
