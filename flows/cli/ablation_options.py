"""The command line of `python -m flows.ablations`: what is trained, how often, where."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from flows.cli.arguments import Parser, add_run_options, check_budget
from flows.cli.command_line import read_files, run_config, run_words, workspace_at
from flows.context.options import MODEL_CONFIGS, RunOptions, candidate_in
from flows.planning.texts import AUTO
from flows.runner.trainers import TaskRunner
from nanogpt.config import Config
from nanogpt.faults import UserError

PROGRAM = "flows.ablations"
RUN, BUDGET, SEEDS = "ablations", "20m", 3
MOST_SEEDS, MOST_WORKERS = 10, 256
TASK_RUNNERS: dict[str, TaskRunner] = {"local": "local", "dask": "dask"}


@dataclass(frozen=True)
class AblationOptions:
    """`run` is the run around the trainings, `control` what they are compared with. `only`: names, none for all."""

    run: RunOptions
    control: Config
    only: tuple[str, ...]
    seeds: int
    steps: int | None
    task_runner: TaskRunner
    workers: int | None
    address: str | None


def parse(argv: list[str]) -> AblationOptions:
    """Raises UserError; SystemExit for --help."""
    argv = [word for word in argv if word != "--no-bootstrap"]
    given = make_parser().parse_args(argv)
    check_budget(given.budget)
    task_runner = _task_runner(given)
    values, model_file = read_files(given, run=RUN, budget=BUDGET)
    config, model_changes = run_config(given, values)
    if config.data.source == AUTO:  # small trainings, which a megabyte of plays feeds
        config = config.model_copy(update={"data": config.data.model_copy(update={"source": "tiny_shakespeare"})})
    control = candidate_in(model_file or MODEL_CONFIGS / "micro.yaml", config, model_changes)
    if control.training.init_from is not None:
        raise UserError("training.init_from: ablations train from scratch, as a change may leave no place for weights")
    run = RunOptions(
        config=config,
        candidates=(control,),
        fixed=True,
        pinned=frozenset(),
        workspace=workspace_at(given.workspace, only_looks=given.status),
        ui=not given.no_ui,
        status=given.status,
        plan=False,
        only=None,
        redo=tuple(given.redo),
        fresh=given.fresh,
        install_at_boot=False,
        uninstall=False,
        words=tuple(run_words(argv, left_out=("--redo",))),
        program=PROGRAM,
    )
    only = tuple(name.strip() for names in given.only for name in names.split(",") if name.strip())
    return AblationOptions(run, control, only, given.seeds, given.steps, task_runner, given.workers, given.dask_address)


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=f"python -m {PROGRAM}",
        allow_abbrev=False,
        description="Break a small model in one way after another, and see what each part is worth: small trainings "
        "that differ from a control in one thing each. Kill it at any time; the same command continues.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34),
    )
    add_run_options(
        parser,
        budget=f"wall clock for everything: 10m, 1h (default {BUDGET}); it decides how long each training is",
        run=RUN,
        config="the control's YAML (default: configs/micro.yaml)",
    )
    add = parser.add_argument
    add("--only", metavar="NAMES", action="append", default=[],
        help="some of the changes or experiments, separated by commas: no-mask,norm (default: all)")  # fmt: skip
    add("--redo", metavar="STEP", action="append", default=[],
        help="run a step again, such as ablations.no-mask-1")  # fmt: skip
    add("--seeds", metavar="N", type=_whole(MOST_SEEDS), default=SEEDS, help=f"seeds of each change (default {SEEDS})")
    add("--steps", metavar="N", type=_whole(10**6), help="steps of each training (default: what the budget allows)")
    add("--task-runner", metavar="WHERE", default="local",
        help="local (default): one after another here; dask: on a Dask cluster, several at once")  # fmt: skip
    add("--workers", metavar="N", type=_whole(MOST_WORKERS),
        help="with dask: processes of a cluster of this machine (default: one a physical core)")  # fmt: skip
    add("--dask-address", metavar="HOST:PORT", help="with dask: the scheduler of an existing cluster")
    return parser


def _whole(most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = 0
        if not 1 <= value <= most:
            raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number from 1 to {most:,}")
        return value

    return number


def _task_runner(given: argparse.Namespace) -> TaskRunner:
    if given.task_runner not in TASK_RUNNERS:
        raise UserError(f"--task-runner {given.task_runner}: found neither of {', '.join(TASK_RUNNERS)}")
    for option in ("workers", "dask_address"):
        if given.task_runner != "dask" and getattr(given, option) is not None:
            raise UserError(f"--{option.replace('_', '-')}: is for --task-runner dask")
    if given.workers is not None and given.dask_address is not None:
        raise UserError("--workers, --dask-address: give one of them; an existing cluster has its own workers")
    return TASK_RUNNERS[given.task_runner]
