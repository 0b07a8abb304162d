"""The command line of a run -> `RunOptions`: typed, validated, and refused in one line before anything is written."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from pydantic import Field, field_validator

from nanogpt.config import (
    Config,
    DataConfig,
    DeviceConfig,
    Section,
    apply_overrides,
    load_config,
    parse_overrides,
    read_yaml,
    set_key,
    validate,
)
from nanogpt.faults import UserError, nearest
from nanogpt.mistakes import nearest_key

CHECKOUT = Path(__file__).resolve().parents[2]
PHASES = ("environment", "implementation", "configuration", "dataset",
          "training", "evaluation", "deployment", "documentation")  # fmt: skip
MODEL_SECTIONS = ("model", "training")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SHORTEST_BUDGET = 60.0


def seconds_of(budget: Any) -> float:
    """`90s`, `10m`, `1.5h` or a number of seconds -> seconds. Raises ValueError saying what is allowed."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", str(budget))
    if not match:
        raise ValueError(f"found {str(budget)!r}, expected a time such as 90s, 10m, 1h or 8h")
    seconds = float(match[1]) * SECONDS[match[2] or "s"]
    if seconds < SHORTEST_BUDGET:
        raise ValueError(f"found {budget}, the shortest budget is {SHORTEST_BUDGET:.0f}s")
    return seconds


class RunConfig(Section):
    """A run, as configs/runs/*.yaml writes it."""

    run: str = Field("default", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    budget: float = 21600.0
    ladder: tuple[str, ...] = ("micro", "tiny_model")
    data: DataConfig = DataConfig()
    device: DeviceConfig = DeviceConfig()
    milestones: bool = True
    tests: bool = True
    port: int = Field(4200, ge=1024, le=65535)
    on_hangup: Literal["continue", "save"] = "continue"
    min_charge: float = Field(20.0, ge=0, le=90)

    @field_validator("run")
    @classmethod
    def _run_has_folders_of_its_own(cls, name: str) -> str:
        if name == "downloads":
            raise ValueError("found 'downloads', the folder of what all runs share; choose another name")
        return name

    @field_validator("budget", mode="before")
    @classmethod
    def _budget_in_seconds(cls, value: Any) -> float:
        return seconds_of(value)


@dataclass(frozen=True)
class RunOptions:
    """Everything a person asked for, validated."""

    config: RunConfig
    rungs: tuple[Config, ...]  # the models to consider, smallest first
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
    command: str  # reproduces this run

    @property
    def run(self) -> str:
        return self.config.run


def parse(argv: list[str]) -> RunOptions:
    """`RunOptions` for a command line. Raises UserError; SystemExit for --help."""
    given = make_parser().parse_args(argv)
    _check_together(given)
    values, model_file = _read_files(given)
    model_changes = [override for override in given.set if _is_of_model(override)]
    run_changes = [override for override in given.set if not _is_of_model(override)]
    _check_sections(run_changes)
    origins = apply_overrides(values, run_changes)
    for key in ("run", "budget", "on_hangup", "min_charge"):
        if (value := getattr(given, key)) is not None:
            values[key], origins[key] = value, f"--{key.replace('_', '-')}"
    if given.data is not None:
        set_key(values, "data.source", _source(given.data))
    config = validate(RunConfig, values, str(given.config or "configs/runs/default.yaml"), origins)
    rungs = tuple(rung_of(path, config, model_changes) for path in _rung_files(config, model_file))
    _check_names(given, rungs)
    _check_from_scratch(rungs)
    return RunOptions(
        config=config, rungs=rungs, fixed=model_file is not None,
        pinned=frozenset(change.partition("=")[0].strip() for change in model_changes),
        workspace=_workspace(given.workspace, only_looks=given.status or given.plan or given.uninstall),
        ui=not given.no_ui, status=given.status, plan=given.plan, only=given.only, redo=tuple(given.redo),
        fresh=given.fresh, install_at_boot=given.install_at_boot, uninstall=given.uninstall,
        command=command_line(argv),
    )  # fmt: skip


def command_line(argv: list[str]) -> str:
    """The command that goes on with, or reproduces, a run: without what applies to one start only."""
    kept, words = [], iter(argv)
    for word in words:
        option, equals, value = word.partition("=")
        if option in ("--redo", "--only", "--workspace", "--config", "--data"):
            value = value if equals else next(words, "")
        if option in ("--workspace", "--config", "--data"):
            kept += [option, _as_seen_from_the_checkout(value)]
        elif option not in ("--redo", "--only", "--fresh", "--status", "--plan", "--install-at-boot", "--uninstall"):
            kept.append(word)
    return shlex.join(["python3", "-m", "flows.full_run", *kept])


def _as_seen_from_the_checkout(path: str) -> str:
    return path if Path.cwd() == CHECKOUT else _source(path)


class _Parser(argparse.ArgumentParser):
    """A mistake in the command line is one line, as every other mistake."""

    def error(self, message: str) -> NoReturn:
        unknown = re.search("unrecognized arguments: (--[^ =]+)", message)
        near = nearest(unknown[1], self._option_string_actions) if unknown else ""
        raise UserError(f"{message}{near}; --help lists the options")


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m flows.full_run",
        allow_abbrev=False,
        description="From nothing to a trained, evaluated, exported and documented GPT. "
        "Kill it at any time; the same command goes on.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=100),
    )
    add = parser.add_argument
    add("--budget", metavar="TIME", help="wall clock for the whole run: 2m, 10m, 1h, 8h (default 6h)")
    add("--data", metavar="NAME|PATH", help="tiny_shakespeare, embedded, a text file or a folder of them")
    add("--run", metavar="NAME", help="name of the run (default: default)")
    add("--workspace", metavar="DIR", type=Path, default=CHECKOUT, help="where results go (default: the checkout)")
    add("--config", metavar="FILE", type=Path, help="a model's YAML (trains exactly that) or a run's YAML")
    add("--set", metavar="KEY=VALUE", action="append", default=[],
        help="change a setting: training.learning_rate=3e-4, data.mirror=DIR,URL (repeatable)")  # fmt: skip
    add("--status", action="store_true", help="table of steps with state and reason, then end")
    add("--plan", action="store_true", help="what would run, with expected time and memory; changes nothing")
    add("--only", metavar="PHASE", help=f"run one phase: {', '.join(PHASES)}")
    add("--redo", metavar="STEP", action="append", default=[], help="run a step again, such as training.micro")
    add("--fresh", action="store_true", help="begin anew; what this run had made is set aside")
    add("--on-hangup", metavar="WHAT", help="when the terminal is closed: continue (default), or save and stop")
    add("--min-charge", metavar="PERCENT",
        help="on battery below this, training saves and waits for power (default 20; 0: never)")  # fmt: skip
    add("--install-at-boot", action="store_true",
        help="let launchd or systemd start this command at every boot until the run is done")  # fmt: skip
    add("--uninstall", action="store_true", help="undo --install-at-boot")
    add("--no-ui", action="store_true", help="without the Prefect server and its pages")
    add("--no-bootstrap", action="store_true", help="use this Python as it is, install nothing")
    return parser


def _read_files(given: argparse.Namespace) -> tuple[dict[str, Any], Path | None]:
    """The run's values and, when --config names a model's file, that file."""
    defaults = read_yaml(CHECKOUT / "configs/runs/default.yaml")
    if given.config is None:
        return defaults, None
    values = read_yaml(given.config)
    known = [*Config.model_fields, *RunConfig.model_fields]
    for key in values:
        if key not in known:
            raise UserError(f"{given.config}: {key}: unknown key{nearest(str(key), known)}")
    if not set(MODEL_SECTIONS) & set(values):
        return {**defaults, **values}, None
    for name in ("data", "device"):
        if not isinstance(values.get(name, {}), dict):
            raise UserError(f"{given.config}: {name}: found {values[name]!r}, should be a section")
    sections = {name: {**defaults.get(name, {}), **values.get(name, {})} for name in ("data", "device")}
    return {**defaults, **sections}, given.config


def _rung_files(config: RunConfig, model_file: Path | None) -> list[Path]:
    if model_file is not None:
        return [model_file]
    if not config.ladder:
        raise UserError("ladder: is empty; name at least one model of configs/")
    files = [CHECKOUT / "configs" / f"{name}.yaml" for name in config.ladder]
    known = sorted(path.stem for path in (CHECKOUT / "configs").glob("*.yaml"))
    for file in files:
        if not file.exists():
            raise UserError(f"ladder: no model named {file.stem!r}{nearest(file.stem, known)}; "
                            f"configs/ has {', '.join(known)}")  # fmt: skip
    return files


def rung_of(file: Path, config: RunConfig, changes: list[str]) -> Config:
    """A model with the run's data and device; what the run says nothing of is as the model's file has it."""
    rung = load_config(file, changes)
    said = {key: getattr(config.device, key) for key in config.device.model_fields_set}
    return rung.model_copy(update={"data": config.data, "device": rung.device.model_copy(update=said)})


def _source(text: str) -> str:
    """A path is kept absolute, so that the run means the same from any folder."""
    path = Path(text).expanduser()
    return str(path.resolve()) if path.exists() or os.sep in text else text


def _check_together(given: argparse.Namespace) -> None:
    """What is for one start only has no place in a command that every boot repeats."""
    if not given.install_at_boot:
        return
    for option in ("only", "redo", "fresh", "status", "plan", "uninstall"):
        if getattr(given, option):
            raise UserError(f"--install-at-boot cannot go with --{option}: a boot starts the plain command")


def _check_names(given: argparse.Namespace, rungs: tuple[Config, ...]) -> None:
    if given.only is not None and given.only not in PHASES:
        raise UserError(f"--only {given.only}: no such phase{nearest(given.only, PHASES)}; "
                        f"phases are {', '.join(PHASES)}")  # fmt: skip
    from flows.phases import steps_of

    known = [step.name for step in steps_of([rung.name for rung in rungs])]
    for name in given.redo:
        if name not in known:
            raise UserError(f"--redo {name}: no such step{nearest(name, known)}; steps are {', '.join(known)}")


def _check_from_scratch(rungs: tuple[Config, ...]) -> None:
    for rung in rungs:
        if rung.training.init_from is not None:
            raise UserError(
                f"training.init_from {rung.training.init_from}: a run trains from scratch; to go on from a model: "
                f"nanogpt train CONFIG --init {rung.training.init_from}"
            )


def _is_of_model(override: str) -> bool:
    return override.partition("=")[0].strip().split(".")[0] in MODEL_SECTIONS


def _check_sections(overrides: list[str]) -> None:
    known = [*MODEL_SECTIONS, *RunConfig.model_fields]
    for key, _ in parse_overrides(overrides):
        section = key.split(".")[0]
        if section not in known:
            raise UserError(f"--set {key}: unknown key{nearest(section, known) or nearest_key(key, Config)}")


def _workspace(folder: Path, only_looks: bool) -> Path:
    folder = folder.expanduser().resolve()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir():
        raise UserError(f"--workspace {folder}: {existing} is a file, a folder is needed")
    if not only_looks and not _writable(existing):
        raise UserError(f"--workspace {folder}: cannot be written; choose a folder of your own or change its rights")
    return folder


def _writable(folder: Path) -> bool:
    """Asks the file system itself: os.access answers yes to root even on a read-only mount."""
    probe = folder / f".autopilot-probe-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True
