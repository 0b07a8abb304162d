"""Phase 6: how good the models are, on text they never saw, against baselines; and whether the project's tests pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.ledger.facts import (
    BASELINES,
    CHECKS,
    DECODED,
    EVALUATED,
    FETCHED,
    PLANNED,
    QUALITY,
    SAMPLES,
    STUDIED,
    TESTS,
    Baselines,
    Decoded,
    Evaluated,
    Key,
    Quality,
    Samples,
    Studied,
    Tests,
    trained,
)
from flows.ledger.steps import StepResult
from flows.machine.disk import Unwritable
from flows.planning import budget_shares
from flows.report.facts import collect
from flows.report.verdict import missed_goal, verdict
from flows.runner.phase_runner import GoalMissed
from flows.runner.repair import remake_damaged
from flows.runner.run import AnyStep, Phase, Run, Step, StepsWanted
from flows.runner.step_runner import cause_of
from flows.supervision import own_tests
from nanogpt.config import Config, load_config, token_folder
from nanogpt.records import to_json
from nanogpt.results.evaluation import DecodingSpeed, JudgedSamples, ModelFigures
from nanogpt.results.quality import QualityReport
from nanogpt.results.study import ModelStudy
from nanogpt.sources import catalogue
from nanogpt.units import chosen_duration, duration

TEMPERATURES = (0.5, 0.8, 1.0)
SAMPLE_TOKENS, SAMPLE_TOKENS_WHEN_LATE = 400, 200
LEAST_DECODING_SECONDS = 0.3
WORKER_SECONDS = 3600.0  # what hangs must not hold a night's run for longer
LEAST_PATIENCE = 300.0  # with an accelerator
STUDY_PATIENCE = 180.0  # seconds; 4 are usual, 24 were needed with ten others at work on two cores
QUALITY_PATIENCE = 300.0  # seconds; 15 are usual, 99 were needed with ten others at work on two cores


def evaluation(run: Run) -> None:
    remake_damaged(run, "dataset")  # what rotted while the models trained would judge them by other text
    baselines = run.start_in_background(BASELINES)
    evaluated = run.do(EVALUATED)
    run.do(SAMPLES)
    run.do(DECODED)
    do_if_possible(run, QUALITY)
    do_if_possible(run, STUDIED)
    baselines()
    if run.config.tests:
        run.do(TESTS)
    best = evaluated.models[evaluated.best].test
    rows = [_result_row(name, figures) for name, figures in evaluated.models.items()]
    run.journal.display.table("results", rows, "Results")
    run.milestone(
        "evaluation",
        f"evaluation: {evaluated.best} is best, {best.bits_per_byte:.3f} bits per byte on test",
        f"Test loss {best.loss:.4f}, perplexity {best.perplexity:.2f}.",
        [run.paths.markers / f"{record.name}.json" for record in run.step_runner.records("evaluation")],
    )
    judged = verdict(collect(run))
    if judged is not None and not judged.has_learned:
        raise GoalMissed(judged.headline, judged.command, "Not learned")


def do_if_possible(run: Run, key: Key[Any]) -> None:
    """A step that nothing depends on: its failure is shown and recorded as one, and costs neither phase nor run."""
    try:
        run.do(key)
    except Unwritable:  # no later step could write, either
        raise
    except Exception as error:
        run.journal.message(f"{key.step} failed, the run goes on without it: {cause_of(error)}", "warning")


def evaluate_models(run: Run, names: Sequence[str]) -> StepResult[Evaluated]:
    models: dict[str, ModelFigures] = {}
    with_nanogpts_measure = _is_nanogpts_text(run) and not run.is_late
    for name in names:
        models[name] = _on_device(
            run,
            "nanogpt.evaluation.summary:summarise",
            model_folder=run.paths.model(name),
            data_folder=_data_folder(run, name),
            with_nanogpts_measure=with_nanogpts_measure,
        )
        test = models[name].test
        losses = f"test loss {test.loss:.4f}, perplexity {test.perplexity:.2f}"
        run.journal.message(f"{name}: {losses}, {test.bits_per_byte:.3f} bits per byte")
    # Chosen by the validation split: the test split judges, once, and decides nothing.
    best = min(models, key=lambda name: models[name].val.bits_per_byte)
    identity = {
        name: {"val": to_json(model.val), "test": to_json(model.test), "nanogpt_loss": model.nanogpt_loss}
        for name, model in models.items()
    }
    return StepResult(Evaluated(best, models), identity={"best": best, "figures": identity})


def write_samples(run: Run) -> StepResult[Samples]:
    best = run.facts(EVALUATED).best
    judged: JudgedSamples = _on_device(
        run,
        "nanogpt.evaluation.summary:sample_and_judge",
        model_folder=run.paths.model(best),
        text_folder=run.paths.data / "text",
        temperatures=TEMPERATURES,
        tokens=SAMPLE_TOKENS_WHEN_LATE if run.is_late else SAMPLE_TOKENS,
        seed=_config(run, best).training.seed,
    )
    return StepResult(Samples(judged.prompts, judged.samples, judged.coherence, model=best))


def measure_decoding(run: Run) -> StepResult[Decoded]:
    best = run.facts(EVALUATED).best
    seconds = LEAST_DECODING_SECONDS if run.is_late else budget_shares.decoding_seconds(run.config.budget)
    speed: DecodingSpeed = _on_device(
        run, "nanogpt.evaluation.summary:decoding", model_folder=run.paths.model(best), max_seconds=seconds
    )
    return StepResult(Decoded(**asdict(speed), model=best), identity={})


def judge_quality(run: Run) -> StepResult[Quality]:
    """Compare the models with intervals, and judge samples of the best; a short or a late run leaves it out."""
    evaluated = run.facts(EVALUATED)
    if left_out := _no_time(run, budget_shares.BUDGET_FOR_QUALITY):
        return StepResult(Quality([], [], evaluated.best, None, [], left_out), identity={}, left_out=left_out)
    figures = run.paths.reports / "figures"
    report: QualityReport = _on_device(
        run,
        "nanogpt.evaluation.quality_summary:judge_trained",
        QUALITY_PATIENCE,
        models={name: run.paths.model(name) for name in evaluated.models},
        data_folders={name: _data_folder(run, name) for name in evaluated.models},
        text_folder=run.paths.data / "text",
        best=evaluated.best,
        figures=figures,
    )
    for line in report.findings:
        run.journal.log(line)
    facts = Quality(report.findings, report.figures, evaluated.best, report.comparison, report.writing)
    return StepResult(facts, [figures / f"{name}.svg" for name in report.figures], identity={})


def study_best(run: Run) -> StepResult[Studied]:
    """Look into the best model; a short or a late run leaves it out and says so."""
    best = run.facts(EVALUATED).best
    if left_out := _no_time(run, budget_shares.BUDGET_FOR_STUDY):
        return StepResult(Studied([], [], best, left_out), identity={}, left_out=left_out)
    figures = run.paths.reports / "figures"
    study: ModelStudy = run.worker.call(
        "nanogpt.study.summary:study_trained",
        model_folder=run.paths.model(best),
        data_folder=_data_folder(run, best),
        figures=figures,
        timeout=STUDY_PATIENCE,
    )
    return StepResult(
        Studied(**asdict(study), model=best), [figures / f"{name}.svg" for name in study.figures], identity={}
    )


def _no_time(run: Run, least_budget: float) -> str:
    """Why a step is left out that needs `least_budget` seconds of a run; "" where there is time."""
    if run.config.budget < least_budget:
        return f"a budget of {chosen_duration(run.config.budget)} has no time for it"
    return "the run is late" if run.is_late else ""


def compare_baselines(run: Run) -> StepResult[Baselines]:
    from nanogpt.evaluation import baselines  # numpy: 0.1 s, only where they are computed

    return StepResult(Baselines.of(baselines.compare(run.paths.data / "text")))


def run_fast_tests(run: Run) -> StepResult[Tests]:
    """The project's own fast tests, where nobody has run them with this code and these packages. Raises RuntimeError
    when one fails; that they take too long here says nothing against the models: it is reported."""
    log = run.paths.logs / "tests.log"
    is_asked_for = TESTS.step in run.options.redo
    before = own_tests.earlier(run.paths.all_states, run.ledger.code_of(_TESTS))
    if before is not None and not is_asked_for:
        run.journal.message(f"the project's tests: {before.passed} passed before with this code and these packages")
        return StepResult(before, identity={"failed": 0})
    budget = run.config.budget
    spare = math.inf if is_asked_for else 0.0 if run.is_late else run.spare_seconds
    seconds = own_tests.seconds_allowed(budget, spare)
    if not seconds:
        reason = own_tests.too_little(budget, spare)
        return StepResult(own_tests.not_run(reason), identity={"failed": 0}, left_out=reason)
    facts = own_tests.run_own_tests(seconds, log, run.pulse)
    where = run.paths.relative(log)
    if facts.failed:
        last = facts.tail.splitlines()[-1:]
        raise RuntimeError(f"the project's tests fail here: {' '.join(last)}; all of it is in {where}")
    if facts.timed_out:
        run.journal.message(
            f"the project's tests were stopped after {duration(seconds)}; how far they came is in {where}", "warning"
        )
    return StepResult(facts, identity={"failed": 0})


def _on_device(run: Run, target: str, most_seconds: float = WORKER_SECONDS, **arguments: Any) -> Any:
    """A work of the library on the run's device; on the CPU when that fails."""

    def work(device: str) -> Any:
        patience = most_seconds if device == "cpu" else min(most_seconds, _patience(run))
        return run.worker.call(target, device=device, timeout=patience, **arguments)

    device = run.accelerator.current(run.facts(CHECKS).device)
    return run.accelerator.run_on(device, "evaluation", work)


def _patience(run: Run) -> float:
    """Seconds after which an accelerator is taken to hang: ten times what is planned for the whole phase."""
    planned = run.facts(PLANNED).phase_seconds("evaluation")
    return min(WORKER_SECONDS, max(LEAST_PATIENCE, 10 * planned))


def _result_row(name: str, figures: ModelFigures) -> dict[str, str]:
    test = figures.test
    return {
        "model": name,
        "parameters": f"{figures.parameters:,}",
        "test loss": f"{test.loss:.4f}",
        "perplexity": f"{test.perplexity:.2f}",
        "bits per byte": f"{test.bits_per_byte:.3f}",
    }


def _is_nanogpts_text(run: Run) -> bool:
    """nanoGPT's figures are of tiny Shakespeare's last tenth; on other text, or another split, nothing compares."""
    data = run.config.data
    held_out = math.isclose(data.val_fraction + data.test_fraction, 0.1)
    return held_out and run.facts(FETCHED).sha256 == catalogue.CATALOGUE["tiny_shakespeare"].sha256


def _config(run: Run, name: str) -> Config:
    return load_config(run.paths.config(name))


def _data_folder(run: Run, name: str) -> Path:
    return run.paths.data / token_folder(_config(run, name).data.tokenizer)


def _evaluate_trained(run: Run) -> StepResult[Evaluated]:
    """The models to judge: one that could not be trained is no reason to leave out the others."""
    names = [name for name in run.models() if run.has_finished(trained(name))] or run.models()
    if run.is_late and len(names) > 1:
        best = min(names, key=lambda name: _validation_loss(run, name))  # of the same tokens, for all of them
        run.journal.message(f"the run is late: only {best}, whose validation loss is the lowest, is judged", "warning")
        names = [best]
    return evaluate_models(run, names)


def _validation_loss(run: Run, name: str) -> float:
    loss = run.facts(trained(name)).best_val_loss
    return math.inf if loss is None else loss


THIS = "flows/phases/evaluation.py"
OPENING = (  # a model and its tokenizer
    THIS,
    "nanogpt/model/**",
    "nanogpt/kernels/**",
    "nanogpt/weights/**",
    "nanogpt/tokenizers/**",
    "nanogpt/sources/cleaning.py",
)
MODELS = (*OPENING, "nanogpt/evaluation/summary.py")
WRITING = ("nanogpt/inference/**", "nanogpt/decoders/**")
ENGINE = (*MODELS, *WRITING)


def steps(wanted: StepsWanted) -> list[AnyStep]:
    return [
        Step(
            key=BASELINES,
            title="Compare with simple models and xz",
            work=compare_baselines,
            needs=("dataset.clean",),
            code=(THIS, "nanogpt/evaluation/baselines.py"),
        ),
        Step(
            key=EVALUATED,
            title="Evaluate every model on the test split",
            work=_evaluate_trained,
            needs=tuple(trained(name).step for name in wanted.models),
            needs_at_least="one",
            code=(
                *MODELS,
                "nanogpt/evaluation/perplexity.py",
                "nanogpt/device.py",
                "nanogpt/data/data_loader.py",
                "nanogpt/data/shard_file.py",
                "nanogpt/data/shards.py",
                "nanogpt/sources/**",
            ),
        ),
        Step(
            key=SAMPLES,
            title="Write and evaluate samples",
            work=write_samples,
            needs=("evaluation.models", "dataset.clean"),
            code=(
                *ENGINE,
                "nanogpt/evaluation/coherence.py",
                "nanogpt/evaluation/training_spans.py",
                "nanogpt/evaluation/baselines.py",
                "nanogpt/data/texts.py",
            ),
        ),
        Step(
            key=DECODED,
            title="Measure decoding",
            work=measure_decoding,
            needs=("evaluation.models",),
            code=(*ENGINE, "nanogpt/evaluation/speed.py", "nanogpt/device.py"),
        ),
        Step(
            key=QUALITY,
            title="Compare the models and what they write",
            work=judge_quality,
            settings=lambda run: {"is_long_enough": run.config.budget >= budget_shares.BUDGET_FOR_QUALITY},
            needs=("evaluation.models", "dataset.clean"),
            code=(
                *OPENING,
                *WRITING,
                "nanogpt/evaluation/baselines.py",
                "nanogpt/evaluation/block_bootstrap.py",
                "nanogpt/evaluation/coherence.py",
                "nanogpt/evaluation/findings.py",
                "nanogpt/evaluation/quality.py",
                "nanogpt/evaluation/quality_summary.py",
                "nanogpt/evaluation/students_t.py",
                "nanogpt/evaluation/token_scores.py",
                "nanogpt/evaluation/training_spans.py",
                "nanogpt/evaluation/verdict.py",
                "nanogpt/evaluation/writing.py",
                "nanogpt/plots/evaluation.py",
                "nanogpt/plots/style.py",
                "nanogpt/printable.py",
                "nanogpt/data/shard_file.py",
                "nanogpt/data/shards.py",
                "nanogpt/data/texts.py",
            ),
        ),
        Step(
            key=STUDIED,
            title="Look into the best model",
            work=study_best,
            settings=lambda run: {"is_long_enough": run.config.budget >= budget_shares.BUDGET_FOR_STUDY},
            needs=("evaluation.models",),
            code=(
                *OPENING,
                "flows/planning/budget_shares.py",
                "nanogpt/data/shard_file.py",
                "nanogpt/data/shards.py",
                "nanogpt/study/**",
                "nanogpt/results/study.py",
                "nanogpt/plots/study.py",
                "nanogpt/plots/style.py",
                "nanogpt/printable.py",
                "nanogpt/training/record/metrics.py",
            ),
        ),
        *([_TESTS] if wanted.with_tests else []),
    ]


_TESTS = Step(
    key=TESTS,
    title="Run the project's fast tests",
    work=run_fast_tests,
    settings=lambda run: {"budget": run.config.budget},  # a larger one may have time for them
    code=("tests/nanogpt/**", "nanogpt/**"),
)
PHASE = Phase("evaluation", evaluation, steps, missed=missed_goal)
