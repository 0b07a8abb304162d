"""The tokenizer of a model on huggingface.co or another hub (HF_ENDPOINT): hf:OWNER/NAME, hf:OWNER/NAME@REVISION."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.errors import HTTPError as ClientError  # type: ignore[attr-defined]  # httpx's or httpx2's

from nanogpt.config import HUB
from nanogpt.faults import UserError
from nanogpt.sources.hub_client import limit_answers
from nanogpt.sources.own import own_path
from nanogpt.sources.part import Unobtainable
from nanogpt.spelling import redacted
from nanogpt.tokenizers.tokenizer import FILE, HF_FILE


def tokenizer_file(address: str, mirrors: Sequence[str] = ()) -> Path:
    """tokenizer.json, with tokenizer_config.json next to it where there is one: of a mirror, else of the hub.

    A mirror is a folder with OWNER/NAME/tokenizer.json, or another hub. What a hub has given stays in its cache on this
    machine; HF_TOKEN's token goes to the hub alone. Raises UserError, in one line, for one that cannot be had.
    """
    repository, _, revision = address.removeprefix(HUB).partition("@")
    for mirror in mirrors:
        if (path := own_path(mirror) / repository / FILE).is_file():
            return path
        if mirror.startswith(("http://", "https://")):
            with suppress(UserError):
                return _of_hub(address, repository, revision, mirror.rstrip("/"), token=False)
    return _of_hub(address, repository, revision, os.environ.get("HF_ENDPOINT"))


def _of_hub(address: str, repository: str, revision: str, endpoint: str | None, token: bool | None = None) -> Path:
    limit_answers()
    api = HfApi(endpoint=endpoint, token=token)
    try:
        path = Path(api.hf_hub_download(repository, FILE, revision=revision or None))
        with suppress(EntryNotFoundError):  # it only says which token ends a text
            api.hf_hub_download(repository, HF_FILE, revision=revision or None)
        return path
    except (ClientError, OSError, ValueError, Unobtainable) as error:
        raise UserError(
            f"data.tokenizer: {address}: {_reason(error, revision, redacted(str(api.endpoint)))}"
        ) from error


def _reason(error: Exception, revision: str, endpoint: str) -> str:
    if isinstance(error, GatedRepoError):
        return f"is gated: accept its terms at {endpoint}, then set HF_TOKEN"
    if isinstance(error, LocalEntryNotFoundError):
        return f"is not on this machine, and {endpoint} cannot be reached"
    if isinstance(error, RevisionNotFoundError):
        return f"has no revision {revision}"
    if isinstance(error, EntryNotFoundError):
        return f"has no {FILE}"
    if isinstance(error, RepositoryNotFoundError):
        return f"there is none at {endpoint} (a private one needs HF_TOKEN)"
    if isinstance(error, HfHubHTTPError):
        return f"{endpoint} answered with status {error.response.status_code}"
    return " ".join(str(error).split())[:200] or type(error).__name__
