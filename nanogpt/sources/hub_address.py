"""The address of a data set of a hub: `hf:owner/name[@revision][:config][:column]`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from nanogpt.faults import UserError
from nanogpt.spelling import spelled

PREFIX = "hf:"
_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,95}"  # as the hub itself allows
_ADDRESS = re.compile(
    rf"hf:(?P<owner>{_NAME})/(?P<name>{_NAME})(@(?P<revision>[^:\s]+))?(:(?P<config>[^:\s]*))?(:(?P<column>[^:\s]+))?"
)
Rows = Literal["documents", "wikitext"]


@dataclass(frozen=True)
class HubAddress:
    """A data set, and what of it: None for the configuration that is its default, and for the column that is its text.

    `rows`: each row is a document; or, in WikiText, a line of an article, which begins with `= Its title =`.
    """

    owner: str
    name: str
    config: str | None = None
    column: str | None = None
    revision: str = "main"
    rows: Rows = "documents"

    @property
    def repository(self) -> str:
        return f"{self.owner}/{self.name}"

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision != "main" else ""
        config = f":{self.config or ''}" if self.config or self.column else ""
        return f"{PREFIX}{self.repository}{revision}{config}{f':{self.column}' if self.column else ''}"


def is_hub_address(source: str) -> bool:
    return source.startswith(PREFIX)


def parse(source: str) -> HubAddress:
    """Raises UserError for what is no address of a data set."""
    found = _ADDRESS.fullmatch(source)
    if found is None:
        raise UserError(
            f"data.source: found {spelled(source)[:100]}, should be hf:owner/name, with :config and :column where they "
            "are not the default, such as hf:roneneldan/TinyStories or hf:Salesforce/wikitext:wikitext-2-raw-v1"
        )
    return HubAddress(
        found["owner"], found["name"], found["config"] or None, found["column"], found["revision"] or "main"
    )
