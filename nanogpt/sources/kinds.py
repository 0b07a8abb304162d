"""What a source is: a name of the catalogue, a data set of a hub, or something on this machine."""

from __future__ import annotations

from typing import Literal

from nanogpt.sources.catalogue import CATALOGUE, EMBEDDED
from nanogpt.sources.hub_address import HubAddress, is_hub_address, parse
from nanogpt.sources.own import own_path

Kind = Literal["file", "hub", "embedded", "nanogpt", "own"]
_OF_NANOGPT = ("train.bin", "val.bin")
_OF_THIS_PROJECT = "manifest.json"  # stands next to train.bin in a data folder of ours


def kind_of(source: str) -> Kind:
    """`file`: one file of the catalogue; `nanogpt`: a folder of token ids as nanoGPT prepares it; `own`: anything else
    on this machine, standard input included."""
    if source in CATALOGUE:
        return "file" if CATALOGUE[source].file else "hub"
    if is_hub_address(source):
        return "hub"
    if source == EMBEDDED:
        return "embedded"
    folder = own_path(source)
    holds_ids = all((folder / name).is_file() for name in _OF_NANOGPT) and not (folder / _OF_THIS_PROJECT).exists()
    return "nanogpt" if holds_ids else "own"


def hub_address_of(source: str) -> HubAddress | None:
    """Where on a hub a source lies; None for one that lies on none. Raises UserError for a malformed address."""
    if source in CATALOGUE:
        return CATALOGUE[source].hub
    return parse(source) if is_hub_address(source) else None
