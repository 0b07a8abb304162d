"""Which code made a result: digests of modules, files and folders, found without importing them."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path

from nanogpt.durable import digest, sha256_file

HOUSES = ("nanogpt", "flows")  # the packages whose modules this process may have loaded
EDITED = "edited while the run went on"


class CodeDigests:
    """Digests of declared code: a module name ("nanogpt.data.tokenizer"), or a file or folder of the checkout.

    A package or folder stands for all files in it. What the houses' files were at the start is remembered: a
    module edited during a long run may have been loaded before or after, so work done then matches no code and
    counts as made by another.
    """

    def __init__(self, checkout: Path):
        self.checkout = checkout
        self._at_start = {
            file: sha256_file(file)
            for house in HOUSES
            if (checkout / house).is_dir()
            for file in _files(checkout / house)
        }

    def before_work(self, entries: Iterable[str]) -> dict[str, str]:
        """{entry: digest} to record. Raises FileNotFoundError, naming the entry that is no code at all."""
        return {entry: self._unedited(entry) for entry in entries}

    def changed(self, entries: Iterable[str], recorded: dict[str, str]) -> list[str]:
        """The entries whose text is not what was recorded."""
        return [entry for entry in entries if self._digest(entry) != recorded.get(entry)]

    def _digest(self, entry: str) -> str:
        place = self._place(entry)
        return digest({file.relative_to(place.parent).as_posix(): sha256_file(file) for file in _files(place)})

    def _unedited(self, entry: str) -> str:
        if (self.checkout / entry).exists():  # templates and the like are read when the work uses them
            return self._digest(entry)
        files = _files(self._place(entry))
        edited = any(self._at_start.get(file, now) != now for file in files for now in [sha256_file(file)])
        return EDITED if edited else self._digest(entry)

    def _place(self, entry: str) -> Path:
        direct = self.checkout / entry
        if direct.exists():
            return direct
        for root in (self.checkout, _installed_root(entry)):
            if root is None:
                continue
            package = root.joinpath(*entry.split("."))
            if package.is_dir():
                return package
            if (module := package.with_name(package.name + ".py")).is_file():
                return module
        raise FileNotFoundError(f'code "{entry}" is neither a module nor a file or folder of {self.checkout}')


def _installed_root(entry: str) -> Path | None:
    """The folder that holds the top-level package of `entry`, for an installed package outside the checkout.

    Only the top level is asked for: find_spec of a dotted name would import the parents.
    """
    top = entry.partition(".")[0]
    spec = importlib.util.find_spec(top) if top.isidentifier() else None
    return Path(spec.origin).parents[spec.submodule_search_locations is not None] if spec and spec.origin else None


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return sorted(
        file
        for file in place.rglob("*")
        if file.is_file()
        and file.suffix != ".pyc"
        and not any(part.startswith(".") for part in file.relative_to(place).parts)
    )
