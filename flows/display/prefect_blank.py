"""An empty database of this Prefect, made once for an environment and copied into each new workspace.

Prefect brings a new database through 139 migrations: 6 s of processor time, two thirds of a first start. The set-up of
`.venv` runs `python -m flows.display.prefect_blank` (bootstrap.py); prefect_process.py alone copies.
Without one, as in an environment of a person's own, Prefect runs its migrations.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

PATIENCE_SECONDS = 300.0


def place() -> Path:
    """Within the environment, and of this very version: another one's tables may differ."""
    return Path(sys.prefix) / "share" / "nanogpt-autopilot" / f"prefect-{version('prefect')}.db"


def make() -> None:
    """Let Prefect make one. Raises OSError or subprocess.SubprocessError, and leaves nothing then."""
    place().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place().parent) as home:
        own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        subprocess.run(
            [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"], check=True, cwd=home,
            env={**own, "PREFECT_HOME": home, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1",
                 "PREFECT_SERVER_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:///prefect.db"},
            stdin=subprocess.DEVNULL, timeout=PATIENCE_SECONDS,
        )  # fmt: skip
        os.replace(Path(home) / "prefect.db", place())


def copy_to(database: Path) -> None:
    """Put a copy where there is no database yet, if there is one to copy; where that fails, Prefect makes its own."""
    if not place().is_file() or database.is_dir():
        return
    unfinished = database.with_name(database.name + ".copy")
    try:
        for companion in ("-wal", "-shm"):  # of a database that is gone: SQLite would play its log into the copy
            database.with_name(database.name + companion).unlink(missing_ok=True)
        shutil.copyfile(place(), unfinished)
        os.replace(unfinished, database)
    except OSError:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


if __name__ == "__main__":
    make()
