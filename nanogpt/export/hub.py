"""An export goes to huggingface.co, or to another hub (HF_ENDPOINT), in one commit."""

from __future__ import annotations

import os
import re
from pathlib import Path

import yaml
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.errors import HTTPError as ClientError  # type: ignore[attr-defined]  # httpx's or httpx2's

from nanogpt.export import front_matter
from nanogpt.export.formats import FORMATS, Format
from nanogpt.faults import UserError
from nanogpt.weights import digests

REPOSITORY = re.compile(r"[^/\s]+/[^/\s]+")
NEEDS_A_TOKEN = (401, 403)
LOG_IN = "set HF_TOKEN to a token that may write there (https://huggingface.co/settings/tokens), or run hf auth login"


def push(folder: Path, repository: str, private: bool) -> str:
    """Commit the export in `folder` to `repository`, owner/name, which is made where it is missing; its address.

    The token is HF_TOKEN's, or that of `hf auth login`. Raises UserError for a folder that is no whole export, a card
    that a hub does not take, and what the hub refuses; CorruptFileError for damaged weights.
    """
    if not REPOSITORY.fullmatch(repository):
        raise UserError(f"--repo {repository}: expected owner/name")
    form = format_of(folder)
    digests.check(folder / form.weights)
    _require_card(folder)
    if not get_token():
        raise UserError(f"there is no token: {LOG_IN}")
    files = sorted(path for path in folder.iterdir() if path.name in form.files and path.is_file())
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        made = api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise UserError(f"--private: {repository} is there already, and is public; choose another name")
        operations = [CommitOperationAdd(path.name, path) for path in files]
        api.create_commit(repository, operations, commit_message=f"nanogpt export, {form.name}")
    except HFValidationError as error:
        raise UserError(f"--repo {repository}: {_one_line(error)}") from error
    except (ClientError, OSError, RuntimeError, ValueError) as error:
        raise UserError(_refusal(error, repository, api.endpoint)) from error
    except (AttributeError, KeyError, TypeError) as error:  # JSON of another shape than the client takes apart
        raise UserError(f"{api.endpoint} does not answer as a hub does ({_one_line(error)})") from error
    return str(made)


def format_of(folder: Path) -> Format:
    """The format of the whole export in `folder`. Raises UserError where it is none."""
    for form in FORMATS.values():
        if form.is_export(folder) and (folder / form.weights).is_file():
            return form
    raise UserError(f"{folder}: is no whole export; nanogpt export writes one, and each of its formats is a folder")


def _require_card(folder: Path) -> None:
    """Raise UserError unless README.md is a card as a hub takes it: front matter that is YAML, and a mapping."""
    path = folder / front_matter.CARD
    if not path.is_file():
        raise UserError(f"{path}: is missing; nanogpt export writes the model's card")
    try:
        ModelCard.load(path)
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: is no card that a hub takes: {_one_line(error)}") from error


def _refusal(error: Exception, repository: str, endpoint: str) -> str:
    """What went wrong, in one line."""
    cause = error.__cause__ if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception) else error
    if isinstance(cause, HfHubHTTPError):
        status = cause.response.status_code
        if status in NEEDS_A_TOKEN:
            return f"{endpoint} does not let you write to {repository} (status {status}); {LOG_IN}"
        return (
            f"{endpoint} answered with status {status}: {' '.join((cause.server_message or str(cause)).split())[:200]}"
        )
    if isinstance(cause, (ClientError, ConnectionError)):
        return f"{endpoint} cannot be reached ({_one_line(cause) or type(cause).__name__})"
    return f"{repository}: {_one_line(cause)}"


def _one_line(words: object) -> str:
    return " ".join(str(words).split())[:200]
