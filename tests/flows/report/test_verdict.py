"""The verdict on a run, and the command that it prints: something changes that ended the training, and it is longer."""

import shlex
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flows.cli.command_line import parse
from flows.context.command_words import PHASES
from flows.context.options import PATIENCE, SECONDS, STEPS
from flows.full_run import PHASES as REAL_PHASES
from flows.ledger.facts import BASELINES, CLEANED, EVALUATED
from flows.report.facts import RunFacts, UnfinishedTraining
from flows.report.verdict import in_words, verdict
from tests.flows.report import report_facts
from tests.flows.report.report_facts import with_step, with_training

pytestmark = pytest.mark.fast
RUN = "python3 -m flows.full_run"


@pytest.fixture(scope="module")
def complete(tmp_path_factory) -> RunFacts:
    return report_facts.complete_facts(tmp_path_factory.mktemp("facts"))


def judged(facts: RunFacts, bits: float, name: str = "tiny") -> RunFacts:
    """`facts` in which the best model has so many bits per byte on the test split."""
    figures = facts.of(EVALUATED).models[name]
    figures = replace(figures, test=replace(figures.test, bits_per_byte=bits))
    return with_step(facts, EVALUATED, best=name, models={**facts.of(EVALUATED).models, name: figures})


def ended(
    facts: RunFacts, reason: str, *made: str, command: str = f"{RUN} --budget 10m", bits: float = 6.0, **training
) -> RunFacts:
    """A run whose tiny ended for `reason`, after settings that a person `made`."""
    facts = with_training(judged(facts, bits), "tiny", reason=reason, **training)
    return replace(facts, command=command, length_settings=list(made))


@pytest.mark.parametrize("bits, level", [(5.0, "not learned"), (2.5, "undertrained"), (2.2, "learned")])
def test_the_best_model_is_judged_by_its_test_split(complete, bits, level):
    found = verdict(judged(complete, bits))
    assert (found.level, found.model) == (level, "tiny") and f"{bits:.3f}" in found.headline


@pytest.mark.parametrize("missing", [EVALUATED, BASELINES])
def test_before_it_is_judged_there_is_no_verdict(complete, missing):
    assert verdict(replace(complete, steps={k: v for k, v in complete.steps.items() if k != missing.step})) is None


# The command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step, words", [(1, "it made 1 step, and"), (50, "it made 50 steps, and")])
def test_few_steps_are_counted(complete, step, words):
    assert words in verdict(ended(complete, "out of time", step=step, seconds=9.0)).headline


@pytest.mark.parametrize("reason, made, words, printed", [
    # nothing that a person made: the budget ended it, and is raised
    ("out of time", [], "--budget 10m", "--budget 22m"),
    ("max_iters", [], "--budget 10m --run night", "--budget 22m --run night"),
    ("max_iters", [], "--budget=10m --run=night", "--budget 22m --run night"),
    ("early stopping", [], "", "--budget 22m"),
    ("max_iters", [SECONDS, PATIENCE], "--budget 10m", "--budget 22m"),  # not what ended it
    # what a person made is changed; there is time enough for it
    ("max_iters", [STEPS], "--budget 1h --set training.max_iters=50", "--budget 1h --set training.max_iters=200"),
    ("max_iters", [STEPS], "--set=training.max_iters=50 --budget=1h", "--set training.max_iters=200 --budget 1h"),
    ("max_iters", [STEPS], "--config own.yaml --budget 1h",
     "--config own.yaml --budget 1h --set training.max_iters=200"),
    ("out of time", [SECONDS], "--budget 1h --set training.max_seconds=20 --set training.seed=3",
     "--budget 1h --set training.max_seconds=1200 --set training.seed=3"),
    ("early stopping", [STEPS, PATIENCE], "--budget 1h --set training.early_stopping_patience=2",
     "--budget 1h --set training.early_stopping_patience=0"),
])  # fmt: skip
def test_what_ended_the_training_is_changed(complete, reason, made, words, printed):
    """50 steps in 200 s have learned nothing: 200 are enough, and a busier machine takes 6 s for each."""
    command = f"{RUN} {words}".strip()
    budget = 3600.0 if "1h" in words else 600.0
    facts = replace(ended(complete, reason, *made, command=command, step=50, seconds=200.0), budget_seconds=budget)
    assert verdict(facts).command == f"{RUN} {printed}"


def test_the_budget_grows_with_the_steps_that_a_person_sets(complete):
    facts = ended(complete, "max_iters", STEPS, command=f"{RUN} --budget 10m", step=50, seconds=200.0)
    others = sum(row.planned_seconds for row in complete.phases if row.name != "training")
    minutes = -(-(others + 200 * 6.0) // 60)
    assert verdict(facts).command == f"{RUN} --budget {minutes:.0f}m --set training.max_iters=200"


def test_a_model_that_is_undertrained_gets_four_times_the_time(complete):
    assert verdict(ended(complete, "out of time", bits=3.0)).command == f"{RUN} --budget 40m"
    facts = ended(complete, "max_iters", STEPS, bits=3.0, step=500, seconds=10.0, command=f"{RUN} --budget 10m")
    assert verdict(facts).command == f"{RUN} --budget 10m --set training.max_iters=2000"


def test_a_model_that_a_larger_budget_trained_gets_more_than_it_had(complete):
    facts = ended(complete, "out of time", bits=3.0, seconds=1000.0, command=f"{RUN} --budget 2m")
    others = sum(row.planned_seconds for row in complete.phases if row.name != "training")
    minutes = -(-(others + 4000.0) // 60)
    assert verdict(replace(facts, budget_seconds=120.0)).command == f"{RUN} --budget {minutes:.0f}m"


def test_a_model_whose_training_is_not_known_gets_more_time(complete):
    models = [replace(model, facts=UnfinishedTraining("killed")) for model in complete.models]
    facts = replace(ended(complete, "max_iters", STEPS), models=models)
    assert verdict(facts).command == f"{RUN} --budget 20m"


SETTINGS = {STEPS: "500", SECONDS: "20", PATIENCE: "2"}


@given(
    st.sampled_from(["max_iters", "out of time", "early stopping", "another reason"]),
    st.sets(st.sampled_from(sorted(SETTINGS))),
    st.floats(61.0, 1e6), st.booleans(), st.integers(500, 10**6), st.floats(1e-3, 1e5), st.floats(2.41, 7.0),
)  # fmt: skip
def test_the_command_is_never_the_one_that_failed_and_asks_for_more(
    complete, reason, made, budget, is_one_word, step, seconds, bits
):
    assume(reason != "out of time" or SECONDS not in made or seconds >= float(SETTINGS[SECONDS]))  # they ended it
    budget = float(round(budget))
    pairs = [("--budget", f"{budget:.0f}s")] + [("--set", f"{key}={SETTINGS[key]}") for key in sorted(made)]
    words = [f"{option}={value}" if is_one_word else f"{option} {value}" for option, value in pairs]
    command = " ".join([RUN, *words, "--data embedded"])
    facts = ended(complete, reason, *made, command=command, bits=bits, step=step, seconds=seconds)
    found = verdict(replace(facts, budget_seconds=budget))
    before, after = (parse(shlex.split(text)[3:], REAL_PHASES) for text in (command, found.command))
    assert len(REAL_PHASES) == len(PHASES) and shlex.split(found.command)[:3] == RUN.split()
    assert (after.config.budget, after.candidates) != (before.config.budget, before.candidates)
    assert after.config.budget >= before.config.budget
    key = {"max_iters": STEPS, "out of time": SECONDS, "early stopping": PATIENCE}.get(reason)
    if key not in made:
        assert after.config.budget >= 2 * budget and after.candidates == before.candidates
        return
    old, new = before.candidates[0].training, after.candidates[0].training
    if key == STEPS:
        assert new.max_iters >= max(2 * step, 0 if found.has_learned else old.enough_steps)
    elif key == SECONDS:
        assert new.max_seconds >= 3 * seconds * (1 - 1e-9)
    else:
        assert not new.early_stopping_patience
    assert found.command.count(key) == 1


# In words ----------------------------------------------------------------------------------------------------------


def test_a_figure_for_people_is_how_many_letters_it_hesitates_between(complete):
    assert in_words(complete, 1.0) == "as unsure of each letter as if it chose among 2.0 equally likely ones"
    greek = with_step(complete, CLEANED, bytes=2_000, characters=1_000)  # two bytes a letter
    assert "among 4.0 " in in_words(greek, 1.0)


@given(st.floats(0, 1e9))
def test_any_figure_can_be_said_in_words(complete, bits):
    assert in_words(complete, bits).endswith("equally likely ones")
