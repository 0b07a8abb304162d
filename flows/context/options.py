"""What a person asked of a run: typed and validated."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from flows.context.command_words import AssumedSpeed, seconds_of
from flows.context.paths import CHECKOUT
from nanogpt.config import Config, DataConfig, DeviceConfig, Section, load_config
from nanogpt.mistakes import found
from nanogpt.spelling import redacted

MODEL_CONFIGS = CHECKOUT / "configs"
LONGEST_RUN_NAME = 80  # characters; file systems take 255 bytes, and what is set aside has a longer name
RUN_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{LONGEST_RUN_NAME - 1}}}")
STEPS, SECONDS, PATIENCE = "training.max_iters", "training.max_seconds", "training.early_stopping_patience"


def _is_address(text: str) -> bool:
    if not re.match(r"https?://[^\s/?#]+", text) or not text.isprintable() or " " in text:
        return False
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets without an address, a port that is no number
        return False


class NotifyConfig(Section):
    """Who hears that a run has ended, and how; nobody by default. An address or a command may hold a secret."""

    when: Literal["always", "failure"] = "always"
    desktop: bool = False
    webhook: str | None = Field(None, repr=False)
    command: str | None = Field(None, repr=False)

    @field_validator("webhook")
    @classmethod
    def _webhook_is_an_address(cls, address: str | None) -> str | None:
        """The message does not show it."""
        if address is not None and not _is_address(address):
            raise ValueError("should be an address that begins with https:// or http://")
        return address

    @field_validator("command")
    @classmethod
    def _command_is_not_empty(cls, command: str | None) -> str | None:
        if command is not None and (not command.strip() or "\0" in command):
            raise ValueError("is empty or has a NUL character; name a command, or null for none")
        return command


class RunConfig(Section):
    """A run, as configs/runs/*.yaml writes it."""

    run: str = "default"
    budget: float = 21600.0
    # the models to consider, smallest first
    ladder: tuple[str, ...] = (
        "micro", "mini_model", "tiny_model", "compact_model", "small_model", "medium_model", "large_model",
    )  # fmt: skip
    data: DataConfig = DataConfig()
    device: DeviceConfig = DeviceConfig()
    milestones: bool = True
    tests: bool = True
    port: int = Field(4200, ge=1024, le=65535)
    on_hangup: Literal["continue", "save"] = "continue"
    min_charge: float = Field(20.0, ge=0, le=90)
    notify: NotifyConfig = Field(NotifyConfig(), repr=False)

    @field_validator("run")
    @classmethod
    def _run_is_a_name(cls, name: str) -> str:
        """It names folders, a branch and a service."""
        if not RUN_NAME.fullmatch(name):
            allowed = re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-._")[:LONGEST_RUN_NAME]
            raise ValueError(
                f"found {found(name)}, should be a name of letters, digits, '.', '_' and '-', at most "
                f"{LONGEST_RUN_NAME}, beginning with a letter or digit" + (f", such as {allowed}" if allowed else "")
            )
        return name

    @field_validator("run")
    @classmethod
    def _run_has_folders_of_its_own(cls, name: str) -> str:
        if name == "downloads":
            raise ValueError("found 'downloads', the folder of what all runs share; choose another name")
        return name

    @field_validator("data")
    @classmethod
    def _reads_across_documents(cls, data: DataConfig) -> DataConfig:
        """A run reads a small text as characters too, which have no token between documents."""
        if not data.cross_documents:
            raise ValueError(
                "cross_documents: false is for nanogpt prepare and nanogpt train; a run reads across its documents"
            )
        return data

    @field_validator("budget", mode="before")
    @classmethod
    def _budget_in_seconds(cls, value: Any) -> float:
        return seconds_of(value)


@dataclass(frozen=True)
class RunOptions:
    """Everything a person asked for, validated."""

    config: RunConfig
    candidates: tuple[Config, ...]  # the models to choose from, smallest first
    fixed: bool  # one model from --config: trained as written, not sized by the planner
    pinned: frozenset[str]  # dotted keys that a person set: the planner leaves them alone
    workspace: Path
    ui: bool
    status: bool
    plan: bool
    only: str | None
    redo: tuple[str, ...]
    fresh: bool
    install_at_boot: bool
    uninstall: bool
    words: tuple[str, ...] = field(repr=False)  # of the command line that reproduces this run; one may hold a password
    remembered: str = ""  # of an earlier start: which of its options count again, and which have to be given again
    program: str = "flows.full_run"
    assumed_speed: AssumedSpeed | None = None  # of another machine, for --plan
    text_by_plan: bool = False  # which text, or how much of it, is for the plan to say

    @property
    def run(self) -> str:
        return self.config.run

    @property
    def command(self) -> str:
        """What continues, or reproduces, this run, fit to be shown."""
        return redacted(shlex.join(["python3", "-m", self.program, *self.words]))

    @property
    def length_settings(self) -> set[str]:
        """The settings that end a training and that a person made: a larger budget leaves them as they are."""
        trainings = [candidate.training for candidate in self.candidates]
        made = {
            STEPS: self.fixed or STEPS in self.pinned,
            SECONDS: any(training.max_seconds is not None for training in trainings),
            PATIENCE: any(training.early_stopping_patience for training in trainings),
        }
        return {key for key, is_made in made.items() if is_made}

    @property
    def candidate_names(self) -> list[str]:
        return [candidate.name for candidate in self.candidates]


def candidate_in(file: Path, config: RunConfig, changes: list[str]) -> Config:
    """The model of a file with the run's data and device; what the run leaves open is as the file has it."""
    candidate = load_config(file, changes)
    asked = {key: getattr(config.device, key) for key in config.device.model_fields_set}
    return candidate.model_copy(update={"data": config.data, "device": candidate.device.model_copy(update=asked)})


def shipped_models() -> list[Path]:
    """The YAML files of configs/, by name."""
    return sorted(MODEL_CONFIGS.glob("*.yaml"))
