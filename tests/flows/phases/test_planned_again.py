"""Phase 5 on a machine that grows busy or quiet: what was much slower or faster than planned is planned again, once,
within the budget."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flows.full_run import PHASES
from flows.ledger.facts import MEASURED, PLANNED, Trained, trained
from flows.ledger.steps import StepResult
from flows.phases import configuration, training
from flows.planning import budget_shares, site
from flows.planning.planner import CHILD_SECONDS
from flows.runner.run import Phase, Run, Step
from flows.supervision.recovery import TooSlow
from nanogpt import durable
from nanogpt.config import Config
from nanogpt.units import GIB, count
from tests.flows.parts import assembled, finish_beginning, outcome
from tests.flows.planning.machines import Machine

pytestmark = pytest.mark.fast
HOUR = 3600.0


class BusyMachine(Machine):
    """Is `slowness` times slower as soon as the first training begins, or faster; every measurement of a model is
    noted."""

    def __init__(self, rate: float, slowness: float):
        super().__init__(rate)
        self.slowness, self.killed_in_measuring = slowness, False
        self.given_up: list[str] = []  # trainings that find the machine too busy, once each for every name here

    def grow_busy(self) -> None:
        self.rate /= self.slowness
        self.slowness = 1.0

    def begin(self, config: Config) -> None:
        if self.killed_in_measuring:
            raise KeyboardInterrupt
        super().begin(config)

    @property
    def times_measured(self) -> int:
        """Of the smallest."""
        return sum(name == "micro" for name, _ in self.measured)


def measure_and_plan(run: Run) -> None:
    """Phase 3 after the text is there."""
    run.do(MEASURED)
    run.do(PLANNED)


def run_on(
    folder: Path, machine: BusyMachine, budget: float = HOUR, ladder: str = "micro, tiny_model, small_model", *more: str
) -> Run:
    """A run whose trainings take what their machine makes of them, on its clock."""
    slowness = machine.slowness

    def train(run: Run, name: str) -> StepResult[Trained]:
        if name in machine.given_up:
            machine.given_up.remove(name)
            machine.rate /= 1e5
            run.clock.take_over(run.clock.spent + 60.0)
            raise TooSlow(name, "about 40 steps in 50 min instead of 9,000; 200 make a model worth having")
        now = slowness if slowness > 1 else machine.slowness  # what is measured again on a quiet machine is right
        machine.grow_busy()
        planned = run.facts(PLANNED).model(name)
        in_time, most = planned.tokens / now, planned.tokens / planned.steps * planned.max_iters
        seconds = planned.seconds * min(1.0, most / in_time)
        run.clock.take_over(run.clock.spent + seconds)
        tokens = max(1, int(min(in_time, most)))
        done = outcome(reason="out of time" if in_time < most else "max_iters", seconds=seconds, tokens=tokens,
                       sha256=durable.digest([name, tokens]))  # fmt: skip
        of_run = {"folder": "", "predicted_seconds": 1.0, "expected_bits_per_byte": 2.0, "remedies": []}
        return StepResult(Trained(**vars(done), **of_run))

    def step(name: str) -> Step[Trained]:
        return Step(key=trained(name), title=f"Train {name}", work=lambda run: train(run, name),
                    settings=lambda run: training._settings(run, name))  # fmt: skip

    own = {
        "configuration": Phase("configuration", measure_and_plan, configuration.PHASE.steps),
        "training": Phase("training", training.training, lambda wanted: [step(name) for name in wanted.models]),
    }
    phases = [own.get(each.name, each) for each in PHASES]
    run = assembled(folder, phases, machine, "--budget", f"{budget:.0f}s", "--set", f"ladder=[{ladder}]",
                    "--set", "tests=false", *more)  # fmt: skip
    run.session.begin()
    finish_beginning(run, text_bytes=10**8)
    return run


def do(run: Run, *names: str) -> None:
    for phase in run.phases:
        if phase.name in names:
            run.run_phase(phase)


@pytest.fixture
def start(tmp_path, monkeypatch) -> Callable[..., Run]:
    monkeypatch.setattr(site, "memory_bytes", lambda: 64 * GIB)
    return lambda machine, *options: run_on(tmp_path, machine, *options)


def planned_models(run: Run) -> list[str]:
    return [model.name for model in run.facts(PLANNED).ladder]


def symptoms(run: Run) -> list[str]:
    return [row.symptom for row in run.journal.remedies]


def test_a_training_that_is_as_planned_is_no_reason_to_measure_again(start):
    machine = BusyMachine(1e15, slowness=1.2)
    run = start(machine)
    do(run, "configuration", "training")
    assert planned_models(run) == ["micro", "small_model"] and machine.times_measured == 1
    assert symptoms(run) == [] and run.phase_runner.record("training").status == "done"


def test_one_that_was_much_slower_is_measured_and_planned_again_once(start):
    machine = BusyMachine(1e15, slowness=1000.0)
    run = start(machine)
    do(run, "configuration")
    before = run.facts(PLANNED)
    assert planned_models(run) == ["micro", "small_model"]
    do(run, "training")
    assert machine.times_measured == 2
    [row] = run.journal.remedies
    assert (row.step, row.symptom, row.remedy) == (
        "training.micro", "slower than planned", "measured and planned again",
    )  # fmt: skip
    after = run.facts(PLANNED)
    assert row.outcome == f"now {', then '.join(planned_models(run))}"
    assert "small_model" not in planned_models(run), "a smaller one"
    assert after.ladder[0].parameters < before.ladder[-1].parameters
    made = run.facts(trained("micro"))
    has = f"micro: trained before, {made.step:,} steps, {count(made.tokens)} tokens; it stays as it is"
    log = (run.paths.logs / "automation_log.txt").read_text()
    assert log.count("micro: about") == log.count(has) == 1
    assert all(run.has_finished(trained(name)) for name in planned_models(run))


def test_one_that_was_done_early_leaves_its_time_to_those_after_it(start):
    machine = BusyMachine(1e11, slowness=0.1)
    run = start(machine)
    do(run, "configuration")
    before = run.facts(PLANNED)
    do(run, "training")
    assert symptoms(run)[0] == "faster than planned" and machine.times_measured >= 2
    then, now = before.ladder[-1], run.facts(PLANNED).ladder[-1]
    assert now.tokens * now.parameters > 2 * then.tokens * then.parameters


def test_the_last_one_goes_on_where_it_was_done_early(start):
    machine = BusyMachine(1e11, slowness=0.1)
    run = start(machine, HOUR, "micro")
    do(run, "configuration")
    before = run.facts(PLANNED).model("micro")
    do(run, "training")
    assert symptoms(run) == ["faster than planned"] and machine.times_measured == 2
    assert run.facts(PLANNED).model("micro").tokens > 2 * before.tokens and run.clock.spent > 0.7 * HOUR


def test_a_number_of_steps_that_a_person_has_set_may_be_done_early(start):
    run = start(BusyMachine(1e11, slowness=0.1), HOUR, "micro", "--set", "training.max_iters=2000")
    do(run, "configuration", "training")
    assert run.has_finished(trained("micro")) and symptoms(run) == []


def test_the_phases_to_come_are_planned_as_slow_as_the_training_was(start):
    run = start(BusyMachine(1e13, slowness=4.0))
    do(run, "configuration")
    before = run.facts(PLANNED)
    do(run, "training")
    after = run.facts(PLANNED)
    by_clock = {"deployment": budget_shares.compression_seconds(run.config.budget), "documentation": 0.0}
    for name, seconds in by_clock.items():  # which a slow machine does not prolong
        expected = 4 * (before.phase_seconds(name) - seconds) + seconds
        assert after.phase_seconds(name) == pytest.approx(expected, rel=0.02)


def test_a_start_that_is_killed_while_it_measures_again_does_so_in_the_next_and_in_none_after_that(start):
    machine = BusyMachine(1e13, slowness=4.0)
    first = start(machine)
    do(first, "configuration")
    grow_busy = machine.grow_busy

    def die_after() -> None:
        grow_busy()
        machine.killed_in_measuring = True

    machine.grow_busy = die_after
    with pytest.raises(KeyboardInterrupt):
        do(first, "training")
    first.session.end(stopped=True)
    machine.grow_busy, machine.killed_in_measuring = grow_busy, False
    assert machine.times_measured == 1

    second = start(machine)
    do(second, "configuration", "training")
    assert machine.times_measured == 2 and second.phase_runner.record("training").status == "done"
    states = {record.name: record.state for record in second.step_runner.records("training")}
    assert states["training.micro"] == "kept"
    second.session.end(stopped=True)

    third = start(machine)
    do(third, "configuration", "training")
    assert machine.times_measured == 2 and third.phase_runner.record("training").status == "kept"


def test_one_that_will_have_too_few_steps_gives_its_time_to_a_smaller_model_and_only_once(start):
    machine = BusyMachine(1e15, slowness=1.0)
    machine.given_up = ["small_model"]
    run = start(machine)
    do(run, "configuration", "training")
    assert (
        machine.times_measured == 2 and planned_models(run)[0] == "micro" and "small_model" not in planned_models(run)
    )
    [row] = run.journal.remedies
    assert (row.step, row.symptom, row.remedy) == (
        "training.small_model", "slower than planned", "measured and planned again",
    )  # fmt: skip
    assert "worth having" in row.evidence and row.outcome == f"now {', then '.join(planned_models(run))}"
    assert all(run.has_finished(trained(name)) for name in planned_models(run))
    assert run.missed_paces.was_given_up("small_model")


@pytest.mark.parametrize("slowness, budget", [(1.4, 300.0), (4.0, HOUR), (50.0, HOUR), (1000.0, 8 * HOUR)])
def test_what_is_planned_again_fits_the_time_that_is_left(start, slowness, budget):
    run = start(BusyMachine(1e15, slowness), budget)
    do(run, "configuration")
    first = run.facts(PLANNED).ladder[0]
    do(run, "training")
    assert run.phase_runner.record("training").status == "done", run.phase_runner.record("training").cause
    assert symptoms(run) == ["slower than planned"]
    made = run.facts(PLANNED)
    still_to_come = sum(made.phase_seconds(name) for name in ("evaluation", "deployment", "documentation"))
    left = budget - run.clock.spent + sum(model.seconds for model in made.ladder if model != first)
    room = max(budget_shares.LEAST_SECONDS, left - still_to_come - budget_shares.MARGIN * budget)
    assert sum(model.seconds for model in made.ladder if model != first) <= room + CHILD_SECONDS


def test_settings_that_came_later_do_not_make_a_plan_of_before_another(tmp_path):
    """A run that an older version began goes on with the models that it has; what a person sets now is another plan."""
    run = assembled(tmp_path, PHASES, None, "--budget", "1h")
    for settings in (configuration._plan_settings(run), configuration._measure_settings(run)):
        assert not {"attention", "newton_schulz", "kernels"} & settings["device"].keys()
        assert settings["device"]["mixed_precision"] == "auto"
    assert "muon_interval" not in configuration._plan_settings(run)["models"]["micro"]["training"]
    asked = assembled(tmp_path, PHASES, None, "--set", "device.kernels=torch", "--set", "training.muon_interval=2")
    assert configuration._measure_settings(asked)["device"]["kernels"] == "torch"
    assert configuration._plan_settings(asked)["models"]["micro"]["training"]["muon_interval"] == 2
