"""Phase 8: the facts of the whole run, and everything that a person reads, rendered from them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from flows.ledger.facts import (
    BASELINES,
    BYTE_PAIRS,
    CHARACTERS,
    EVALUATED,
    EXPORTED,
    FIGURES,
    MEASURED,
    REPORTED,
    Criterion,
    NoFacts,
    Reported,
)
from flows.ledger.steps import Json, StepResult
from flows.report import cards, gallery
from flows.report.curves import flops_per_token
from flows.report.facts import RunFacts, all_remedies, collect, facts_of
from flows.report.judgement import criteria, reached, trained_models
from flows.report.timeline import timeline
from flows.runner.run import AnyStep, Phase, Run, Step, StepsWanted
from nanogpt import durable
from nanogpt.faults import CorruptFileError, UserError
from nanogpt.records import to_json
from nanogpt.results.text import TokenFrequencies

FACTS = "facts.json"


def documentation(run: Run) -> None:
    trouble = None
    try:
        run.do(FIGURES)
    except Exception as error:  # raised again below: a figure that cannot be drawn never costs the report
        trouble = error
    judged = run.do(REPORTED).criteria
    display = run.journal.display
    display.table("criteria", [_criterion_row(criterion) for criterion in judged], "Success criteria")
    display.markdown("report", (run.paths.reports / "training_report.md").read_text(encoding="utf-8"), "The report")
    run.milestone("documentation", f"report: {reached(judged)} goals reached", "", report_files(run))
    if trouble is not None:
        raise trouble


def draw_figures(run: Run) -> StepResult[NoFacts]:
    # matplotlib: 0.5 s, only where something is drawn
    from nanogpt.data.frequencies import frequencies_of
    from nanogpt.plots.data import token_frequencies_plot, token_statistics_plot
    from nanogpt.plots.models import baselines_plot, comparison_plot
    from nanogpt.plots.training import learning_rate_plot, loss_plot, speed_plot

    folder = run.paths.reports / "figures"
    begun = {name: run.paths.model(name) for name in run.models()}
    begun = {name: model for name, model in begun.items() if (model / "metrics.jsonl").is_file()}
    figures: list[Path] = []
    for name, model in begun.items():
        for kind, plot in (
            ("loss", loss_plot),
            ("learning-rate", learning_rate_plot),
            ("speed", speed_plot),
        ):
            figures.append(plot(model, folder / f"{name}-{kind}.svg"))
    baselines, evaluated = facts_of(run, BASELINES), facts_of(run, EVALUATED)
    bits = baselines.bits_per_byte if baselines else {}
    five_gram = {name: value for name, value in bits.items() if name.startswith("5-gram")}
    tested = {name: figures_.test.bits_per_byte for name, figures_ in (evaluated.models if evaluated else {}).items()}
    costs = flops_per_token(facts_of(run, MEASURED))
    figures.append(comparison_plot(begun, folder / "comparison.svg", five_gram, costs))
    if vocabularies := [found for key in (CHARACTERS, BYTE_PAIRS) if (found := facts_of(run, key))]:
        figures.append(token_statistics_plot(vocabularies, folder / "tokens.svg"))
        counted: dict[str, TokenFrequencies] = {}
        for found in vocabularies:
            with suppress(UserError, CorruptFileError, OSError):  # its folder may be gone by now
                counted[found.tokenizer] = frequencies_of(run.paths.workspace / found.folder)
        figures.append(token_frequencies_plot(counted, folder / "token-frequencies.svg"))
    figures.append(baselines_plot(bits, tested, folder / "baselines.svg"))
    return StepResult(NoFacts(), figures)


def write_report(run: Run) -> StepResult[Reported]:
    from flows.report import documents  # markdown-it and more: 40 ms of a start

    facts = collect(run)
    times = _draw_times(facts, run.paths.reports / "figures")
    figures = {path.stem: path for path in sorted((run.paths.reports / "figures").glob("*.svg"))}
    durable.write_json(run.paths.reports / FACTS, to_json(facts))
    card_files = _cards(run, facts)
    files = [*documents.render(facts, run.paths.reports, figures), *card_files]
    gallery.write(run.paths.reports.parent)  # of all runs: none of this step's outputs, for other runs write it too
    judged = criteria(replace(facts, documents=[file.name for file in files]))
    return StepResult(Reported(judged), [*files, *times, run.paths.reports / FACTS])


def _draw_times(facts: RunFacts, folder: Path) -> list[Path]:
    """What is known only now: the time of each phase, and the time line of all sessions."""
    from nanogpt.plots.run import phase_times_plot, timeline_plot  # matplotlib, as above

    rows = [(f"{phase.number} {phase.title}", phase.planned_seconds, phase.seconds) for phase in facts.phases]
    drawn = [phase_times_plot(rows, folder / "phase-times.svg")]
    if found := timeline(facts):
        file = folder / "timeline.svg"
        drawn.append(timeline_plot(found.lanes, found.spans, found.marks, found.breaks, file))
    return drawn


def _cards(run: Run, facts: RunFacts) -> list[Path]:
    """The models' cards next to the report: those that the deployment wrote, with the same bytes as everywhere; where
    it did not come to that, what is known."""
    if not run.has_finished(EXPORTED):
        cards.write_all(facts, run.paths)
        cards.copy_to_models(run.models(), run.paths)
    files = [cards.in_reports(model.name, run.paths) for model in trained_models(facts)]
    return [file for file in files if file.is_file()]


def _troubles(run: Run) -> Json:
    """A failed or blocked phase is news for the report; that a phase was kept this time is not. Of a phase that has not
    had its turn, as in --status, it is known whether it will miss its goal again."""
    troubles = {}
    for phase in run.phases:
        record = run.phase_runner.record(phase.name)
        has_run = record.status not in ("waiting", "skipped")
        if cause := record.cause if has_run else phase.missed(run):
            troubles[record.title] = cause
    return {"troubles": troubles}


def _news(run: Run) -> Json:
    """What the report says besides the steps' results: the weights may be the same with a remedy as without."""
    rows = [row for row in all_remedies(run) if row.step != REPORTED.step]  # its own come too late
    return {**_troubles(run), "remedies": [f"{row.when} {row.symptom}" for row in rows]}


def report_files(run: Run) -> list[Path]:
    return [run.paths.reports / name for name in ("training_report.md", "training_report.html", FACTS, "README.md")]


def _criterion_row(criterion: Criterion) -> dict[str, str]:
    met = "no time for it" if criterion.had_no_time else {True: "yes", False: "no", None: "not known"}[criterion.met]
    return {"criterion": criterion.name, "met": met, "evidence": criterion.evidence}


THIS = "flows/phases/documentation.py"
CURVES = ("nanogpt/plots/**", "nanogpt/printable.py", "nanogpt/training/record/metrics.py")


def steps(wanted: StepsWanted) -> list[AnyStep]:
    """The steps that depend on all others."""
    needs = tuple(step.name for step in wanted.before)
    return [
        Step(
            key=FIGURES,
            title="Draw the figures",
            work=draw_figures,
            settings=_troubles,
            needs=needs,
            code=(THIS, "flows/report/facts.py", "flows/report/curves.py", "nanogpt/data/frequencies.py", *CURVES),
            needs_at_least="none",
        ),
        Step(
            key=REPORTED,
            title="Write the report and the guides",
            work=write_report,
            settings=_news,
            needs=needs,
            code=(
                THIS,
                "flows/report/**",
                *cards.CODE,
                "flows/supervision/remedies.py",
                "flows/supervision/own_tests.py",
                "flows/planning/forecast.py",
                "flows/planning/weight_decay.py",
                "templates/*.j2",
                "templates/page.css",
                "templates/page.js",
                "nanogpt/units.py",
                "nanogpt/evaluation/known_results.py",
                *CURVES,
            ),
            needs_at_least="none",
        ),
    ]


PHASE = Phase("documentation", documentation, steps)
