"""The tokenizer of a model on huggingface.co or another hub (HF_ENDPOINT): hf:OWNER/NAME, hf:OWNER/NAME@REVISION."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
)
from huggingface_hub.errors import HTTPError as ClientError  # type: ignore[attr-defined]  # httpx's or httpx2's

from nanogpt.config import HUB
from nanogpt.faults import UserError
from nanogpt.sources.download import ANSWER_SECONDS
from nanogpt.sources.hub_client import limit_answers
from nanogpt.sources.own import own_path
from nanogpt.sources.part import Unobtainable
from nanogpt.sources.places import Missing, explained, within
from nanogpt.spelling import redacted
from nanogpt.tokenizers.tokenizer import FILE, HF_FILE


def tokenizer_file(address: str, mirrors: Sequence[str]) -> Path:
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
        with explained(redacted(str(api.endpoint)), "model", repository, revision):
            return _downloaded(api, repository, revision or None)
    except Unobtainable as error:
        advice = " (HF_TOKEN holds the token for one that is private or gated)" if isinstance(error, Missing) else ""
        raise UserError(f"data.tokenizer: {address}: {error}{advice}") from error


def _downloaded(api: HfApi, repository: str, revision: str | None) -> Path:
    """Raises what huggingface_hub does, and Unobtainable."""
    is_reached = _is_reached(api, repository, revision)
    download = partial(api.hf_hub_download, repository, revision=revision, local_files_only=not is_reached)
    try:
        path = Path(download(FILE))
        with suppress(EntryNotFoundError):  # it only says which token ends a text
            download(HF_FILE)
        return path
    except LocalEntryNotFoundError as error:
        raise Unobtainable(f"cannot be reached, and {repository} was not downloaded before") from error


def _is_reached(api: HfApi, repository: str, revision: str | None) -> bool:
    """Whether the hub answers in time; a download would ask for half a minute. Raises HfHubHTTPError for a refusal,
    Unobtainable for a model without the file."""
    url = hf_hub_url(repository, FILE, revision=revision, endpoint=api.endpoint)
    try:
        within(ANSWER_SECONDS, lambda: api.get_hf_file_metadata(url=url, timeout=ANSWER_SECONDS))
    except EntryNotFoundError as error:
        raise Unobtainable(f"{repository} has no {FILE}") from error
    except HfHubHTTPError:
        raise
    except (Unobtainable, ClientError, OSError):
        return False
    return True
