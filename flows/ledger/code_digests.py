"""Which code made a result: digests of the files that patterns name, found without importing them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nanogpt.durable import digest, sha256_file

PACKAGES = ("nanogpt", "flows")  # whose modules this process may have loaded
EDITED = "edited while the run was under way"


class CodeDigests:
    """Digests of declared code, by patterns of files below the checkout: "nanogpt/model/**", "templates/*.j2".

    What the packages' files were at the start is remembered: a module that is edited during a long run may have been
    loaded before or after, so work that is done then matches no code and counts as made by another.
    """

    def __init__(self, checkout: Path):
        self.checkout = checkout
        self._at_start = {file: sha256_file(file) for package in PACKAGES for file in self._files(f"{package}/**/*.py")}

    def before_work(self, patterns: Iterable[str]) -> dict[str, str]:
        """{pattern: digest} to record. Raises FileNotFoundError, naming the pattern that fits no file."""
        return {pattern: EDITED if self._was_edited(pattern) else self._digest(pattern) for pattern in patterns}

    def changed(self, patterns: Iterable[str], recorded: dict[str, str]) -> list[str]:
        """The patterns whose files are not what was recorded."""
        return [pattern for pattern in patterns if self._digest(pattern) != recorded.get(pattern)]

    def _digest(self, pattern: str) -> str:
        files = self._files(pattern)
        if not files:
            raise FileNotFoundError(f'code "{pattern}" fits no file of {self.checkout}')
        return digest({file.relative_to(self.checkout).as_posix(): sha256_file(file) for file in files})

    def _was_edited(self, pattern: str) -> bool:
        files = [file for file in self._files(pattern) if file in self._at_start]
        return any(sha256_file(file) != self._at_start[file] for file in files)

    def _files(self, pattern: str) -> list[Path]:
        """Source files, without what Python and editors leave next to them."""
        found = self.checkout.glob(f"{pattern}/*" if pattern.endswith("**") else pattern)
        return sorted(
            file for file in found
            if file.is_file() and file.suffix != ".pyc"
            and not any(part.startswith(".") for part in file.relative_to(self.checkout).parts)
        )  # fmt: skip
