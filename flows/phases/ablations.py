"""The ablations: small trainings that differ from a control in one thing each, under one budget, and their table."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from flows.context.command_words import budget_of
from flows.ledger.facts import Key, Tokenised
from flows.ledger.steps import Json, StepResult
from flows.machine.disk import Unwritable
from flows.runner.run import AnyStep, Phase, Run, Step
from flows.runner.step_runner import Blocked
from flows.runner.trainers import TaskRunner, Trainers, open_trainers
from nanogpt import durable, markdown
from nanogpt.config import Config
from nanogpt.faults import UserError
from nanogpt.machine import physical_cores
from nanogpt.printable import printable
from nanogpt.records import to_json
from nanogpt.results.ablations import Ablation, AblationRow, AblationTable, KernelTimes
from nanogpt.spelling import to_be_typed
from nanogpt.study.ablation_table import make_table
from nanogpt.study.variants import CONTROL, Variant
from nanogpt.units import chosen_duration

FEWEST_STEPS = 30  # below them hardly anything is learned that could differ
SHARE_PLANNED = 0.8  # of the time that is left: a machine is busier at times
SECONDS_FOR_TABLE = 15.0  # a table, a figure, and the kernels before them
LATE = 1.1  # times the usual seconds that a training has to fit in
PATIENCE = 600.0  # seconds, for work of a few: what hangs must not hold the run


@dataclass(frozen=True)
class AblationPlan:
    """How long each training is, and how many seconds one was expected to take."""

    steps: int
    seconds: float
    seconds_per_step: float


@dataclass(frozen=True)
class Kernels:
    times: list[KernelTimes]


PLAN = Key("ablations.plan", AblationPlan)
KERNELS = Key("ablations.kernels", Kernels)
TABLE = Key("summary.table", AblationTable)


def ablation(variant: str, seed: int) -> Key[Ablation]:
    return Key(f"ablations.{variant}-{seed}", Ablation)


@dataclass
class Study:
    """What is to be trained: `variants` of `control`, the control first, with each seed from 1 to `seeds`."""

    control: Config
    variants: Sequence[Variant]
    seeds: int
    steps: int | None  # as the person asks; None: what the budget allows
    tokens: Key[Tokenised]  # the step that makes the control's tokens
    task_runner: TaskRunner = "local"
    workers: int | None = None
    address: str | None = None
    trainers: Trainers | None = None  # while the trainings are under way

    @property
    def trainings(self) -> list[tuple[Variant, int]]:
        """All variants with the first seed come before any with the second: what is cut short is a whole table."""
        return [(variant, seed) for seed in range(1, self.seeds + 1) for variant in self.variants]

    @property
    def keys(self) -> list[Key[Ablation]]:
        return [ablation(variant.name, seed) for variant, seed in self.trainings]

    @property
    def at_once(self) -> int:
        return self.trainers.at_once if self.trainers else 1

    @property
    def in_its_threads(self) -> Config:
        """The control with its share of this machine's cores, where several are trained at once."""
        if self.at_once == 1 or self.control.device.threads is not None:
            return self.control
        return self.control.with_changes({"device.threads": max(1, physical_cores() // self.at_once)})

    def data_folder(self, run: Run) -> Path:
        return run.paths.workspace / run.facts(self.tokens).folder


# ---- phases


def phases(study: Study) -> tuple[Phase, ...]:
    """Those after the dataset's."""
    trainings = [training_step(study, variant, seed) for variant, seed in study.trainings]
    steps: list[AnyStep] = [plan_step(study), kernels_step(study), *trainings]
    table = table_step(study)
    return (
        Phase("ablations", lambda run: train_all(run, study), lambda wanted: steps),
        Phase("summary", lambda run: show(run, run.do(TABLE)), lambda wanted: [table]),
    )


def train_all(run: Run, study: Study) -> None:
    """Every training that fits into the budget. Raises RuntimeError when some failed, once the others are done."""
    failures: list[str] = []
    left_out = 0
    under_way: deque[Callable[[], Ablation]] = deque()

    def finish(training: Callable[[], Ablation]) -> None:
        try:
            training()
        except (UserError, Unwritable):
            raise
        except Exception as error:
            failures.append(str(error))

    with open_trainers(run, study.task_runner, study.workers, study.address) as study.trainers:
        plan = run.do(PLAN)
        run.do(KERNELS)
        run.journal.display.forecast({"2 Ablations": plan.seconds * len(study.keys) / study.at_once})
        for key in study.keys:
            if is_late(run, study, key):
                left_out += 1
                continue
            under_way.append(partial(run.do, key) if study.at_once == 1 else run.start_in_background(key))
            if len(under_way) >= study.at_once:
                finish(under_way.popleft())
        while under_way:
            finish(under_way.popleft())
    if left_out:
        many = f"{left_out} of {len(study.keys)} trainings are left out"
        run.journal.message(f"{many}: the budget is spent; the same command makes them", "warning")
    if failures:
        raise RuntimeError(f"{len(failures)} of {len(study.keys)} trainings failed: {failures[0]}")


def is_late(run: Run, study: Study, key: Key[Ablation]) -> bool:
    """Whether a training that is to be made would outlast the budget. The first one is always made."""
    step = run.step(key)
    if key == study.keys[0] or run.ledger.decide(step, step.settings(run)).keep:
        return False
    records = [record for record in run.step_runner.records("ablations") if record.state == "done"]
    taken = [record.seconds for record in records if record.name not in (PLAN.step, KERNELS.step)]
    usual = median(taken) if taken else run.facts(PLAN).seconds
    return run.clock.left < LATE * usual + SECONDS_FOR_TABLE


# ---- steps


def settings_of(config: Config) -> Json:
    return {"model": config.model.model_dump(), "training": config.training.model_dump()}


def plan_step(study: Study) -> Step[AblationPlan]:
    return Step(
        key=PLAN,
        title="Measure the control, and settle the number of steps",
        work=lambda run: plan_trainings(run, study),
        settings=lambda run: {"budget": run.config.budget, "steps": study.steps, **settings_of(study.control)},
        needs=(study.tokens.step,),
        code=("flows/phases/ablations.py", *TRAINING),
        costly=True,  # other code is no reason for trainings of another length
    )


def plan_trainings(run: Run, study: Study) -> StepResult[AblationPlan]:
    seconds_per_step, judging = run.worker.call(
        "nanogpt.study.ablation:seconds_for_steps",
        control=study.in_its_threads,
        data_folder=study.data_folder(run),
        timeout=PATIENCE,
    )
    count = len(study.keys) / study.at_once
    each = (SHARE_PLANNED * run.clock.left - SECONDS_FOR_TABLE) / count
    steps = study.steps or min(study.control.training.max_iters, int((each - judging) / seconds_per_step))
    if steps < FEWEST_STEPS and study.steps is None:
        needed = (count * (FEWEST_STEPS * seconds_per_step + judging) + SECONDS_FOR_TABLE) / SHARE_PLANNED
        raise UserError(
            f"--budget: {chosen_duration(run.config.budget)} are too little for {len(study.keys)} trainings of "
            f"{FEWEST_STEPS} steps; give --budget {budget_of(needed)}, fewer --seeds, or --only some"
        )
    seconds = steps * seconds_per_step + judging
    run.journal.log(f"{len(study.keys)} trainings of {steps} steps, about {seconds:.1f} s each")
    return StepResult(AblationPlan(steps, seconds, seconds_per_step), identity={"steps": steps})


def kernels_step(study: Study) -> Step[Kernels]:
    return Step(
        key=KERNELS,
        title="Time attention, fused and written out",
        work=lambda run: time_kernels(run, study),
        settings=lambda run: settings_of(study.control),
        code=("flows/phases/ablations.py", "nanogpt/study/attention_kernels.py", "nanogpt/study/surgery.py",
              "nanogpt/study/variants.py", "nanogpt/device.py", "nanogpt/training/numerics.py",
              "nanogpt/kernels/library.py", "nanogpt/kernels/conditions.py", "nanogpt/kernels/source.py"),
        costly=True,
    )  # fmt: skip


def time_kernels(run: Run, study: Study) -> StepResult[Kernels]:
    times = run.worker.call("nanogpt.study.attention_kernels:compare_kernels", control=study.control, timeout=PATIENCE)
    return StepResult(Kernels(times))


def training_step(study: Study, variant: Variant, seed: int) -> Step[Ablation]:
    def settings(run: Run) -> Json:
        plan = run.ledger.facts(PLAN)
        if plan is None:
            raise Blocked(f"{PLAN.step} has not finished")
        of_variant = settings_of(variant.config(study.control))
        return {"steps": plan.steps, "seed": seed, "surgery": variant.surgery, **of_variant}

    return Step(
        key=ablation(variant.name, seed),
        title=f"{variant.title}, seed {seed}",
        work=lambda run: train(run, study, variant, seed),
        settings=settings,
        needs=(study.tokens.step, PLAN.step),
        code=("flows/phases/ablations.py", *TRAINING),
        costly=True,
    )


def train(run: Run, study: Study, variant: Variant, seed: int) -> StepResult[Ablation]:
    if study.trainers is None:
        raise RuntimeError("nothing is open to train on")
    plan = run.facts(PLAN)
    result: Ablation = study.trainers.call(
        "nanogpt.study.ablation:train_variant",
        control=study.in_its_threads,
        data_folder=study.data_folder(run),
        name=variant.name,
        seed=seed,
        steps=plan.steps,
        timeout=min(3600.0, PATIENCE + 20 * plan.seconds),
    )
    losses = [result.val_loss, result.val_loss_as_trained, *result.curve]
    return StepResult(result, identity={"losses": losses, "diverged_at": result.diverged_at})


def table_step(study: Study) -> Step[AblationTable]:
    return Step(
        key=TABLE,
        title="Compare them: table, figure and findings",
        work=lambda run: compare(run, study),
        needs=(KERNELS.step, *(key.step for key in study.keys)),
        needs_at_least="one",
        code=("flows/phases/ablations.py", "nanogpt/evaluation/students_t.py", "nanogpt/study/ablation_table.py",
              "nanogpt/study/variants.py", "nanogpt/plots/ablations.py", "nanogpt/plots/style.py",
              "nanogpt/plots/curves.py", "nanogpt/markdown.py", "nanogpt/printable.py", "nanogpt/units.py"),
    )  # fmt: skip


def compare(run: Run, study: Study) -> StepResult[AblationTable]:
    made = [run.facts(key) for key in study.keys if run.has_finished(key)]
    missing = [key.step.partition(".")[2] for key in study.keys if not run.has_finished(key)]
    if not any(training.variant == CONTROL.name for training in made):
        raise Blocked("the control has not been trained")
    kernels = run.facts(KERNELS).times if run.has_finished(KERNELS) else []
    table = make_table(study.control, made, kernels, missing)
    page, record, figure = run.paths.reports / "ablations.md", run.paths.reports / "ablations.json", figure_of(run)
    run.worker.call(
        "nanogpt.plots.ablations:ablations_plot", table=table, ablations=made, path=figure, timeout=PATIENCE
    )
    durable.write_text(page, as_markdown(table))
    durable.write_json(record, {"table": to_json(table), "trainings": [to_json(training) for training in made]})
    return StepResult(table, [page, record, figure])


TRAINING = (
    "nanogpt/study/ablation.py",
    "nanogpt/study/surgery.py",
    "nanogpt/study/variants.py",
    "nanogpt/device.py",
    "nanogpt/model/**",
    "nanogpt/kernels/**",
    "nanogpt/training/*.py",
    "nanogpt/training/update/**",
)


# ---- what is shown


def show(run: Run, table: AblationTable) -> None:
    """The table and the figure in the pages."""
    run.journal.display.markdown("ablations", as_markdown(table), "What each change costs")
    run.journal.display.image("ablations-figure", figure_of(run), "What each change costs")


def figure_of(run: Run) -> Path:
    return run.paths.reports / "figures" / "ablations.svg"


def as_markdown(table: AblationTable) -> str:
    """Findings, table and figure."""
    lines = [
        "# Ablations",
        "",
        f"Control: {markdown.inline(table.control)}, {table.rows[0].parameters:,} parameters. Each training: "
        f"{table.steps:,} steps, {table.tokens:,} tokens, on {table.device} in {table.precision}. Losses are nats a "
        "token on the validation split; ± is half of a 95 % interval over the seeds, each compared with the control "
        "of the same seed.",
        "",
        *(f"- {markdown.inline(finding)}" for finding in table.findings),
        "",
        "| change | loss | difference | verdict | what it is to show | as expected |",
        "|---|---:|---:|---|---|---|",
        *map(_row, table.rows),
        "",
        "![What each change costs](figures/ablations.svg)",
        "",
    ]
    if table.missing:
        lines += [f"Not made: {', '.join(table.missing)}.", ""]
    if table.kernels:
        lines += ["Attention alone, forward and backward, milliseconds:", ""]
        lines += ["| window | fused | written out | difference of the numbers |", "|---:|---:|---:|---:|"]
        lines += [
            f"| {row.window:,} | {row.fused:.1f} | {row.written_out:.1f} | {row.difference:.1e} |"
            for row in table.kernels
        ]
        lines.append("")
    return "\n".join(lines)


def _row(row: AblationRow) -> str:
    loss = "–" if row.loss is None else f"{row.loss:.3f}"
    difference = "" if row.difference is None else f"{row.difference:+.3f}"
    margin = "" if row.margin is None else f" ± {row.margin:.3f}"
    verdict = "" if row.verdict == "control" else row.verdict
    return f"| {row.title} | {loss} | {difference}{margin} | {verdict} | {row.shows} | {row.as_expected} |"


def last_words(run: Run) -> list[str]:
    """What a person reads last on the terminal."""
    troubles = [record for record in run.phase_runner.records if record.has_failed]
    lines = [f"{record.label} {record.status}: {record.cause}" for record in troubles]
    if run.has_finished(TABLE):
        lines += run.facts(TABLE).findings
        lines += [f"Table:  {run.paths.reports / 'ablations.md'}", f"Figure: {figure_of(run)}"]
    if run.session.prefect_url:
        lines.append(f"Pages:  {run.session.prefect_url}")
    if troubles:
        lines.append(f"When the cause is fixed, continue with:\n  {to_be_typed(run.options.command)}")
    return [printable(line) for line in lines]
