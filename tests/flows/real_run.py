"""A run of the eight phases in which some steps are finished, by facts such as report_facts has."""

from pathlib import Path

from flows.cli.command_line import parse
from flows.full_run import PHASES
from flows.ledger.facts import Key
from flows.ledger.steps import StepResult, StepSpec
from flows.runner.assembly import assemble
from flows.runner.run import Run
from nanogpt.config import load_config, save_config
from tests.flows.report.report_facts import complete_facts


def real_run(workspace: Path, *arguments: str) -> Run:
    """A run that may train micro and tiny."""
    small = ["--set", "ladder=[micro, tiny_model]", "--set", "milestones=false", "--data", "embedded"]
    return assemble(parse(["--workspace", str(workspace), *small, *arguments], PHASES), PHASES)


def finish(run: Run, *keys: Key) -> None:
    """These steps have finished in an earlier session, and left what those of a whole run leave."""
    facts = complete_facts(run.paths.workspace / "facts")
    for key in keys:
        step = StepSpec(key=key, title=key.step)
        run.ledger.start(step, {}, "never run")
        run.ledger.finish(step, StepResult(facts.of(key)), seconds=1.0)


def finish_now(run: Run, *keys: Key) -> None:
    """The same, in this session."""
    finish(run, *keys)
    run.step_runner.finished.update(key.step for key in keys)


def write_config(run: Run, model: str) -> None:
    """The YAML that the plan writes of a shipped model."""
    save_config(load_config(f"configs/{model}.yaml"), run.paths.config(model))
