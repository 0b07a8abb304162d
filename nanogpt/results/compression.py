"""Smaller and faster models (nanogpt.compression)."""

from __future__ import annotations

from dataclasses import dataclass

from nanogpt.results.quality import Estimate


@dataclass(frozen=True)
class CompressedModel:
    """One row of the table of smaller models. `difference`: its bits per byte less the original's, over the same
    windows of the test split. `speed_of`: the row whose speed was measured, where this one runs the same products."""

    name: str
    how: str
    parameters: int
    bytes: int  # of its weights in a file made for them
    bits_per_byte: Estimate
    difference: Estimate
    tokens_per_second: Estimate
    speed_of: str
    backend: str  # what decoded, when the speed was measured
    seconds: float  # that making it took
    folder: str  # "" for the original


@dataclass(frozen=True)
class CompressionTable:
    """The original and what was made of it. `smallest` and `fastest` are names of rows, None for no clear winner."""

    models: list[CompressedModel]  # the original first
    left_out: dict[str, str]  # method -> why
    smallest: str | None
    fastest: str | None
    recommendation: list[str]
    windows: int  # of the test split, that every model was judged on
    window: int
    device: str

    @property
    def original(self) -> CompressedModel:
        return self.models[0]
