"""A command line as options: what was asked for, what the run remembers, and what is a mistake."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.cli.arguments import make_parser, parse_arguments
from flows.context.options import MODEL_CONFIGS, RunConfig, RunOptions, candidate_in, shipped_models
from flows.context.paths import CHECKOUT, Paths
from flows.ledger.facts import FETCHED, SURVEYED
from flows.ledger.markers import MarkerFiles, last_finished
from flows.planning import texts
from flows.runner.run import Phase, steps_of
from flows.runner.sessions import read_session
from nanogpt.config import Config, apply_overrides, parse_overrides, read_yaml, set_key, validate
from nanogpt.faults import UserError, nearest
from nanogpt.mistakes import dotted_keys, nearest_key
from nanogpt.model.limits import require_memory
from nanogpt.sources.hub_address import is_hub_address
from nanogpt.sources.own import parts_of
from nanogpt.spelling import is_redacted, to_be_typed

MODEL_SECTIONS = ("model", "training")
DEFAULTS = MODEL_CONFIGS / "runs" / "default.yaml"
MIRROR = "data.mirror"
PATHS = ("--workspace", "--config", "--data")
OF_ONE_START = ("--only", "--redo", "--fresh", "--status", "--plan", "--install-at-boot", "--uninstall")
ONLY_IN_A_FILE = ("notify", "notify.webhook", "notify.command")
LOOK_ONLY = ("status", "plan", "uninstall")


def parse(argv: list[str], phases: Sequence[Phase]) -> RunOptions:
    """`RunOptions` for a command line; one that only names a run means that run as it was started before.

    Raises UserError; SystemExit for --help.
    """
    given = parse_arguments(argv)
    remembered, hidden = _remembered(given)
    if hidden and given.install_at_boot:
        raise UserError(f"--install-at-boot: {_give_again(hidden[0])}")
    if remembered:
        argv = [*remembered, *argv]
        given = parse_arguments(argv)
    values, model_file = read_files(given)
    config, model_changes = run_config(given, values)
    config, begun = _with_text_of_before(config, given)
    files = [model_file] if model_file is not None else _model_files(config)
    candidates = tuple(candidate_in(file, config, model_changes) for file in files)
    check_steps(given.redo, phases, candidates)
    _check_from_scratch(candidates)
    if model_file is not None and not any(getattr(given, option) for option in LOOK_ONLY):
        require_memory(candidates[0].model)  # of several, the plan leaves out what does not fit
    return RunOptions(
        config=config,
        candidates=candidates,
        fixed=model_file is not None,
        pinned=frozenset(map(_key, model_changes)),
        workspace=workspace_at(given.workspace, only_looks=any(getattr(given, option) for option in LOOK_ONLY)),
        ui=not given.no_ui,
        status=given.status,
        plan=given.plan,
        only=given.only,
        redo=tuple(given.redo),
        fresh=given.fresh,
        install_at_boot=given.install_at_boot,
        uninstall=given.uninstall,
        words=(*run_words(argv), *(word for setting in hidden for word in ("--set", setting))),
        assumed_speed=given.assume_speed,
        text_by_plan=texts.are_by_plan(config.data),
        remembered="; ".join(filter(None, [shlex.join(remembered), begun, *map(_give_again, hidden)])),
    )


def _with_text_of_before(config: RunConfig, given: argparse.Namespace) -> tuple[RunConfig, str]:
    """A run that fetched its text before plans chose one keeps it; that in words, "" for any other."""
    if config.data.source != texts.AUTO or given.fresh:
        return config, ""
    markers = MarkerFiles(Paths(given.workspace.resolve(), config.run).markers)
    fetched = last_finished(markers.read(FETCHED.step)[0])
    source = fetched.settings.get("data", {}).get("source") if fetched else None
    if source is None or markers.read(SURVEYED.step)[0] is not None:
        return config, ""
    data = config.data.model_copy(update={"source": source})
    return config.model_copy(update={"data": data}), f"--data {to_be_typed(source)}, with which it began"


def run_config(given: argparse.Namespace, values: dict[str, Any]) -> tuple[RunConfig, list[str]]:
    """The run of `values`, a file's, with what the command line says on top, and those of its changes that are of a
    model. Raises UserError."""
    model_changes = [override for override in given.set if _is_of_model(override)]
    run_changes = [override for override in given.set if not _is_of_model(override)]
    _check_sections(run_changes)
    origins = apply_overrides(values, run_changes)
    for key in ("run", "budget", "on_hangup", "min_charge"):
        if (value := getattr(given, key)) is not None:
            values[key], origins[key] = value, f"--{key.replace('_', '-')}"
    if given.data is not None:
        set_key(values, "data.source", _absolute(given.data))
    return validate(RunConfig, values, str(given.config or "configs/runs/default.yaml"), origins), model_changes


def run_words(argv: Sequence[str], left_out: Sequence[str] = ("--redo", "--only", "--assume-speed")) -> list[str]:
    """The words of a command line that say what a run is; paths are absolute unless they start at the checkout.

    left_out: options that are not among them, each with its value.
    """
    kept: list[str] = []
    words = iter(argv)
    for word in words:
        option, equals, value = word.partition("=")
        if option in left_out:
            value if equals else next(words, "")
        elif option in PATHS:
            kept += [option, _as_seen_from_the_checkout(value if equals else next(words, ""))]
        elif option in ("--redo", "--only") or option not in OF_ONE_START:
            kept.append(word)
    return kept


def _remembered(given: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The words with which a run was started before, where this command line says nothing of what the run is, and the
    settings of which it kept no password. What this command line gives too is left out."""
    own_keys = [_key(setting) for setting in given.set]
    if given.fresh or given.config or given.data or given.budget or set(own_keys) - {MIRROR}:
        return [], []
    session = read_session(Paths(given.workspace.resolve(), given.run or "default").state)
    if session is None:
        return [], []
    try:
        before = make_parser().parse_args(shlex.split(session.command)[3:])
    except UserError:  # an option of an older version
        return [], []
    words: list[str] = []
    for option in ("--budget", "--data", "--config", "--on-hangup", "--min-charge"):
        name = option.removeprefix("--").replace("-", "_")
        if getattr(given, name) is None and (value := getattr(before, name)) is not None:
            words += [option, _from_the_checkout(str(value)) if option in PATHS else value]
    settings = [setting for setting in before.set if _key(setting) not in own_keys]
    for setting in settings:
        words += [] if is_redacted(setting) else ["--set", setting]
    words += ["--no-ui"] if before.no_ui and not given.no_ui else []
    return words, [setting for setting in settings if is_redacted(setting)]


def _give_again(hidden: str) -> str:
    key = _key(hidden)
    return f"{key} has a password, which is not kept: give it again (--set {key}=...)"


def _key(setting: str) -> str:
    return setting.partition("=")[0].strip()


def _from_the_checkout(path: str) -> str:
    """A command is kept as it is typed in the checkout: its relative paths begin there."""
    return str(CHECKOUT / path) if (CHECKOUT / path).exists() else path


def read_files(given: argparse.Namespace, **own: Any) -> tuple[dict[str, Any], Path | None]:
    """The run's values and, when --config names a model's file, that file. `own`: other defaults."""
    defaults = {**read_yaml(DEFAULTS), **own}
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


def _model_files(config: RunConfig) -> list[Path]:
    if not config.ladder:
        raise UserError("ladder: is empty; name at least one model of configs/")
    files = [MODEL_CONFIGS / f"{name}.yaml" for name in config.ladder]
    known = [path.stem for path in shipped_models()]
    for file in files:
        if not file.exists():
            near = nearest(file.stem, known)
            raise UserError(f"ladder: no model named {file.stem!r}{near}; configs/ has {', '.join(known)}")
    return files


def _as_seen_from_the_checkout(path: str) -> str:
    return path if Path.cwd() == CHECKOUT else _absolute(path)


def _absolute(text: str) -> str:
    """A path is kept absolute, so that the run means the same from any folder; a name of the catalogue and an address
    on a hub stay."""
    return ",".join(map(_absolute_part, parts_of(text)))


def _absolute_part(text: str) -> str:
    path = Path(os.path.expanduser(text))  # unlike Path's own, it leaves a user who does not exist
    is_path = (path.exists() or os.sep in text) and not is_hub_address(text)
    return str(path.resolve()) if is_path else text


def check_steps(names: Sequence[str], phases: Sequence[Phase], candidates: Sequence[Config]) -> None:
    known = [step.name for step in steps_of(phases, [candidate.name for candidate in candidates])]
    for name in names:
        if name not in known:
            raise UserError(f"--redo {name}: no such step{nearest(name, known)}; steps are {', '.join(known)}")


def _check_from_scratch(candidates: Sequence[Config]) -> None:
    for candidate in candidates:
        if (source := candidate.training.init_from) is not None:
            raise UserError(
                f"training.init_from {source}: a run trains from scratch; to continue from a model: "
                f"nanogpt train CONFIG --init {source}"
            )


def _is_of_model(override: str) -> bool:
    return _key(override).split(".")[0] in MODEL_SECTIONS


def _check_sections(overrides: Sequence[str]) -> None:
    known = [*dotted_keys(RunConfig), *filter(_is_of_model, dotted_keys(Config))]
    for key, _ in parse_overrides(overrides):
        if key.split(".")[0] not in RunConfig.model_fields:
            raise UserError(f"--set {key}: unknown key{nearest_key(key, known, in_full=True)}")
        if key in ONLY_IN_A_FILE:
            raise UserError(f"--set {key}: may hold a secret, and command lines are kept in logs; write it in a run's "
                            "YAML and give that with --config")  # fmt: skip


def workspace_at(folder: Path, only_looks: bool) -> Path:
    folder = folder.resolve()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir():
        raise UserError(f"--workspace {folder}: {existing} is a file, a folder is needed")
    if not only_looks and not _is_writable(existing):
        raise UserError(f"--workspace {folder}: cannot be written; choose a folder of your own or change its rights")
    return folder


def _is_writable(folder: Path) -> bool:
    """Asks the file system itself: os.access answers yes to root even on a read-only mount."""
    probe = folder / f".autopilot-probe-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True
