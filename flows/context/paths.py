"""Where a run keeps everything: each folder and file under its workspace, by name."""

from __future__ import annotations

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
TEMPLATES = CHECKOUT / "templates"  # of everything that a run writes for people


def from_checkout(path: Path) -> str:
    """`path` as a person types it who stands in the checkout."""
    return str(path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path)


class Paths:
    """Every place that a run writes to, all under the workspace."""

    def __init__(self, workspace: Path, run: str):
        self.workspace = workspace
        self.state = workspace / "state" / run
        self.logs = workspace / "logs" / run
        self.checkpoints = workspace / "checkpoints" / run
        self.exports = workspace / "exports" / run
        self.reports = workspace / "reports" / run
        self.data = workspace / "data" / run
        self.downloads = workspace / "data" / "downloads"  # shared by all runs, verified by digest
        self.configs = self.state / "configs"
        self.markers = self.state / "markers"
        self.all_states = workspace / "state"  # of every run, with what they share
        self.prefect_home = workspace / "state" / ".prefect"  # one server for all runs of a workspace
        self.report = self.reports / "training_report.html"

    def config(self, model: str) -> Path:
        """The resolved YAML of a model."""
        return self.configs / f"{model}.yaml"

    def model(self, name: str) -> Path:
        """The folder in which a model is trained."""
        return self.checkpoints / name

    def own_folders(self) -> list[Path]:
        return [self.state, self.logs, self.checkpoints, self.exports, self.reports, self.data]

    def folders(self) -> list[Path]:
        return [*self.own_folders(), self.downloads]

    def relative(self, path: Path) -> str:
        """`path` as seen from the workspace."""
        return os.path.relpath(path, self.workspace)
