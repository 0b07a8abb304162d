"""The texts that have a name here."""

from __future__ import annotations

from dataclasses import dataclass

EMBEDDED = "embedded"
UNKNOWN = "unknown"  # the name of a text that nobody recorded


@dataclass(frozen=True)
class Entry:
    """One file that can be downloaded, `bytes` long. `mirror_file` is its path below a mirror."""

    name: str
    file: str
    homes: tuple[str, ...]  # public addresses of the same bytes, the best first
    sha256: str
    bytes: int
    description: str
    licence: str
    citation: str
    mirror_file: str = ""
    language: str | None = None  # ISO 639-1, of a text

    def at(self, place: str) -> str:
        """Its address at a mirror or a home."""
        return place if place in self.homes else f"{place.rstrip('/')}/{self.mirror_file or self.file}"


CATALOGUE = {
    "tiny_shakespeare": Entry(
        name="tiny_shakespeare",
        file="tinyshakespeare.txt",
        homes=(
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            # The copy of TensorFlow's tutorials. It could not be reached where this was written: the sha256 decides.
            "https://storage.googleapis.com/download.tensorflow.org/data/shakespeare.txt",
        ),
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        bytes=1_115_394,
        description="40,000 lines of Shakespeare's plays, 1.1 MB",
        licence="public domain",
        citation="Andrej Karpathy, char-rnn, 2015, https://github.com/karpathy/char-rnn",
        language="en",
    )
}


def licence(source: str) -> str | None:
    """The licence of a source; None for a person's own text, whose licence only they know."""
    if source == EMBEDDED:
        return "PSF-2.0 (Python's own documentation); of more than that: embedded-licences.json, next to it"
    return CATALOGUE[source].licence if source in CATALOGUE else None


def language(source: str) -> str | None:
    """The language of a source in ISO 639-1; None for a person's own text."""
    if source == EMBEDDED:
        return "en"
    return CATALOGUE[source].language if source in CATALOGUE else None


def recorded_name(of_data: str | None, stated: str | None, text_sha256: str) -> str:
    """What a training calls its text: what its data says, else its configuration, else what the content is known as.

    `stated`: None where the configuration leaves it out. A name of the catalogue counts for its own content alone.
    """
    if of_data is not None:
        return of_data
    if stated is not None and stated != UNKNOWN and stated not in CATALOGUE:
        return stated
    return next((entry.name for entry in CATALOGUE.values() if entry.sha256 == text_sha256), UNKNOWN)
