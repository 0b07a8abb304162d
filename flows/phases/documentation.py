"""Phase 8: the facts of the whole run, and everything that a person reads, rendered from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from flows.context.options import PHASES
from flows.ledger.ledger import Outcome, Step
from flows.report import documents
from flows.runner.run import Run, phase_of
from nanogpt import durable
from nanogpt.config import load_config
from nanogpt.faults import UserError

FACTS = "facts.json"


def documentation(run: Run) -> None:
    figures, report = (step for step in run.steps() if phase_of(step) == "documentation")
    trouble = None
    try:
        run.do(figures)
    except Exception as error:  # raised again below: a figure that cannot be drawn never costs the report
        trouble = error
    criteria = run.do(report)["criteria"]
    met = sum(bool(criterion["met"]) for criterion in criteria)
    run.display.table("criteria", [_criterion_row(criterion) for criterion in criteria], "Success criteria")
    run.display.markdown("report", (run.paths.reports / "training_report.md").read_text(encoding="utf-8"), "The report")
    run.milestone("documentation", f"report: {met} of {len(criteria)} criteria met", "", report_files(run))
    if trouble is not None:
        raise trouble


def draw_figures(run: Run) -> Outcome:
    from nanogpt import plots  # matplotlib: 0.5 s, only where something is drawn

    folder = run.paths.reports / "figures"
    begun = [name for name in run.rung_names() if (run.paths.checkpoints / name / "metrics.jsonl").is_file()]
    folders = {name: run.paths.checkpoints / name for name in begun}
    figures = []
    for name, model in folders.items():
        for kind, plot in (("loss", plots.loss_plot), ("learning-rate", plots.learning_rate_plot),
                           ("speed", plots.speed_plot)):  # fmt: skip
            figures.append(plot(model, folder / f"{name}-{kind}.svg"))
    baselines = _facts(run, "evaluation.baselines").get("bits_per_byte", {})
    figures.append(plots.comparison_plot(folders, folder / "comparison.svg", _five_gram(baselines)))
    tested = {name: figures_of["test"]["bits_per_byte"]
              for name, figures_of in _facts(run, "evaluation.models").get("models", {}).items()}  # fmt: skip
    figures.append(plots.baselines_plot(baselines, tested, folder / "baselines.svg"))
    return Outcome(figures)


def write_report(run: Run) -> Outcome:
    from nanogpt import plots

    facts = collect(run)
    times = run.paths.reports / "figures" / "phase-times.svg"
    plots.phase_times_plot(
        [
            (f"{phase['number']} {phase['title']}", phase["planned_seconds"], phase["seconds"])
            for phase in facts["phases"]
        ],
        times,
    )
    figures = {path.stem: path for path in sorted((run.paths.reports / "figures").glob("*.svg"))}
    durable.write_json(run.paths.reports / FACTS, facts)
    files = documents.render(facts, run.paths.reports, figures)
    criteria = documents.criteria({**facts, "documents": [file.name for file in files]})
    return Outcome([*files, times, run.paths.reports / FACTS], {"criteria": criteria})


def collect(run: Run) -> dict:
    """Everything that the documents say, as JSON."""
    models = [_model(run, name) for name in run.rung_names()]
    steps = {step.name: facts for step in run.steps() if (facts := _facts(run, step.name))}
    _add_best_to_baselines(steps)
    return {
        "run": run.options.run, "workspace": str(run.paths.workspace), "command": run.options.command,
        "resume_command": run.options.command, "prefect_url": run.display.url, "versions": run.versions(),
        "started": run.started, "ended": datetime.now().isoformat(sep=" ", timespec="seconds"),
        "sessions": run.sessions, "budget_seconds": run.config.budget, "spent_seconds": round(run.clock.spent, 1),
        "min_charge": run.config.min_charge,
        "phases": _phases(run), "steps": steps, "models": models, "remedies": run.all_remedies(),
        "milestones": [{**vars(commit), "when": commit.time} for commit in run.milestones.commits()],
        "configs": {name: config for name in run.rung_names() if (config := _config(run, name))},
    }  # fmt: skip


def _facts(run: Run, name: str) -> dict:
    """A finished step's facts; none where its phase failed or was blocked before it, for then they are of the past."""
    phase = run.phases[PHASES.index(name.partition(".")[0])]
    return {} if phase.cause and name not in run.finished_steps else run.ledger.facts(name)


def _phases(run: Run) -> list[dict]:
    planned = {phase["number"]: phase["planned_seconds"]
               for phase in _facts(run, "configuration.plan").get("phases", [])}  # fmt: skip
    rows = []
    for record in run.phases:
        seconds = sum(step["seconds"] for step in record.steps) if record.steps else None
        rows.append({
            "number": record.number, "title": record.title, "status": record.status, "seconds": seconds,
            "planned_seconds": planned.get(record.number), "cause": record.cause,
            "next_command": record.next_command, "steps": record.steps,
        })  # fmt: skip
    return rows


def _model(run: Run, name: str) -> dict:
    marker = run.ledger.marker(f"training.{name}") or {}
    facts = _facts(run, f"training.{name}")
    if not facts and marker.get("cause"):
        facts = {"status": "failed", "message": marker["cause"]}
    return {"name": name, "folder": str(run.paths.checkpoints / name), "facts": facts}


def _config(run: Run, name: str) -> dict | None:
    try:
        return load_config(run.paths.configs / f"{name}.yaml").model_dump()
    except UserError:
        return None


def _add_best_to_baselines(steps: dict) -> None:
    evaluated, baselines = steps.get("evaluation.models"), steps.get("evaluation.baselines")
    if evaluated and baselines:
        bits = evaluated["models"][evaluated["best"]]["test"]["bits_per_byte"]
        steps["evaluation.baselines"] = {**baselines, "model": bits if math.isfinite(bits) else None}


def _five_gram(baselines: dict) -> dict:
    return {name: bits for name, bits in baselines.items() if name.startswith("5-gram")}


def _troubles(run: Run) -> dict:
    """A failed or blocked phase is news for the report; that a phase was kept this time is not."""
    return {"troubles": {record.title: record.cause for record in run.phases if record.cause}}


def _told(run: Run) -> dict:
    """What the report has to tell besides the steps' results: the weights may be the same with a remedy as without."""
    mended = [row for row in run.all_remedies() if row["step"] != "documentation.report"]  # its own come too late
    return {**_troubles(run), "remedies": [f"{row['when']} {row['symptom']}" for row in mended]}


def steps(upstream: Sequence[Step]) -> list[Step]:
    """The steps that tell of all others."""
    needs = tuple(step.name for step in upstream)
    return [
        Step("documentation.figures", "Draw the figures", draw_figures, _troubles, needs, code=("nanogpt.plots",),
             regardless=True),
        Step("documentation.report", "Write the report and the guides", write_report, _told, needs,
             code=("templates/", "flows.report.documents", "flows.report.judgement", "flows.report.recommendations",
                   "flows.supervision.remedies",
                   "flows.report.markdown", "flows.phases.documentation"),
             regardless=True),
    ]  # fmt: skip


def report_files(run: Run) -> list[Path]:
    return [run.paths.reports / name for name in ("training_report.md", "training_report.html", FACTS, "README.md")]


def _criterion_row(criterion: dict) -> dict:
    met = {True: "yes", False: "no", None: "not known"}[criterion["met"]]
    return {"criterion": criterion["name"], "met": met, "evidence": criterion["evidence"]}
