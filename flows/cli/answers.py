"""What `python -m flows.full_run` answers before anything is installed. Standard library only."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flows.cli.arguments import CHECKOUT, parse_arguments
from flows.context.command_words import PHASES
from nanogpt.faults import UserError
from nanogpt.printable import show_mistake

ENVIRONMENT = {
    "absent": "No environment yet",
    "half-made": "The environment in .venv is half-made",
    "outdated": "The environment in .venv is older than pyproject.toml",
    "unstamped": "The environment in .venv lacks packages",
    "foreign": "This checkout cannot use the folder .venv",
}
MODULES = ("torch", "prefect", "pydantic", "yaml", "rich", "psutil")  # what starts before any message
WHEN = {"started": "started_at", "finished": "finished_at", "failed": "failed_at"}  # a marker's state -> its time


def at_once(argv: list[str]) -> None:
    """End the process when `argv` asks for help or the version, or cannot be done; else return."""
    try:
        if parse_arguments(argv).no_bootstrap:
            _check_packages()
    except UserError as error:
        show_mistake("error", error)
        sys.exit(2)


def without_packages(argv: list[str], environment: str, run: str) -> None:
    """End the process when `argv` asks for the status of `run`, and show what its files say; else return.

    environment: the state of .venv, a key of ENVIRONMENT.
    """
    given = parse_arguments(argv)
    if not given.status:
        return
    state = given.workspace / "state" / run
    session = _record(state / "session.json") or _record(state / "copies/session.json")
    print(f"{ENVIRONMENT[environment]}: a start without --status makes it ready.")
    print(f"run {run}: {_how_it_stands(session)}")
    for line in _troubles(session):
        print(line)
    markers = [_record(file) for file in sorted((state / "markers").glob("*.json"))]
    for marker in sorted(markers, key=_order):
        if marker.get("state") in WHEN:
            mark = "left out" if marker.get("left_out") else marker["state"]
            print(f"  {marker.get('step')!s:28}{mark:10}{marker.get(WHEN[marker['state']])!s:.19}")
    if markers:
        print("Which of these steps would run again, and why, is shown when the environment is ready.")
    sys.exit(0)


def _check_packages() -> None:
    absent = [name for name in MODULES if find_spec(name) is None]
    if absent:
        raise UserError(
            f"--no-bootstrap: {sys.executable} has no {', '.join(absent)}; leave the option out, "
            f"or install the project into that Python: {sys.executable} -m pip install -e {CHECKOUT}"
        )


def _how_it_stands(session: dict[str, Any]) -> str:
    if not session:
        return "never started"
    state = session.get("state")
    if state == "running" and not _is_alive(session.get("pid")):
        state = "interrupted"
    return f"{state} (session {session.get('sessions')}, first started {session.get('started')!s:.19})"


def _troubles(session: dict[str, Any]) -> list[str]:
    """What did not end well in the latest session, and what to do about it."""
    phases = session.get("phases")
    troubles = (
        [note for note in phases if isinstance(note, dict) and note.get("cause")] if isinstance(phases, list) else []
    )
    lines = []
    for note in troubles:
        lines.append(f"{note.get('number')} {note.get('title')} {note.get('status')}: {note['cause']}")
        lines += [f"  next: {note['next_command']}"] if note.get("next_command") else []
    return lines


def _order(marker: dict[str, Any]) -> tuple[int, str]:
    phase = str(marker.get("step")).partition(".")[0]
    return PHASES.index(phase) if phase in PHASES else len(PHASES), str(marker.get("started_at"))


def _is_alive(pid: object) -> bool:
    try:
        os.kill(int(str(pid)), 0)
    except PermissionError:  # another user's
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return True


def _record(file: Path) -> dict[str, Any]:
    """A JSON object in a plain file; empty for whatever else lies there (reading a pipe would never end)."""
    try:
        record = json.loads(file.read_bytes()) if file.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
