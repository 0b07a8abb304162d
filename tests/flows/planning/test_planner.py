"""Plans: whatever was measured, the budget is kept, the small model comes first, and more time is never worse."""

import dataclasses

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flows.context.command_words import PHASES, SHORTEST_BUDGET
from flows.ledger.facts import LeftOut
from flows.planning import budget_shares, forecast, planner
from flows.planning.forecast import Corpus
from nanogpt.config import Config
from nanogpt.faults import UserError
from nanogpt.units import GIB
from tests.flows.planning.models import MEMORY, PLAY, SIZES, model, plan, speed


def training_seconds(budget: float, corpus: Corpus = PLAY) -> float:
    return budget_shares.training_seconds(budget, budget_shares.by_experience(budget, corpus.bytes))


LADDER = [model("small"), model("middle"), model("large")]

budgets = st.floats(SHORTEST_BUDGET, 30 * 86400)
corpora = st.builds(
    lambda size, fraction, bytes_per_token: Corpus(size, size, 65, fraction, fraction, bytes_per_token),
    st.integers(20_000, 10**10), st.floats(0.05, 0.3), st.floats(1.0, 4.0),
)  # fmt: skip
# Seconds a step of the smallest; each larger one takes some times longer.
machines = st.builds(
    lambda first, second, third: [speed("small", first), speed("middle", first * second),
                                  speed("large", first * second * third)],
    st.floats(1e-3, 2.0), st.floats(1.1, 30), st.floats(1.1, 30),
)  # fmt: skip


# Seconds of the phases but training, on a quiet machine and on one that is slowed down by all that it does.
phase_times = st.fixed_dictionaries({name: st.floats(0.1, 2000.0) for name in PHASES if name != "training"})


@given(machines, budgets, corpora, phase_times, st.floats(0.1, 50.0))
def test_a_plan_keeps_its_budget_however_slow_the_machine(speeds, budget, corpus, phases, slowness):
    """START_SECONDS and MARGIN stay free, but for the least share of a training where the other phases leave less, and
    for a model that is slower to start and to judge than to train."""
    speeds = [dataclasses.replace(speed, seconds_per_step=slowness * speed.seconds_per_step) for speed in speeds]
    phases = {name: slowness * seconds for name, seconds in phases.items()}
    found = {speed.name: speed for speed in speeds}
    made = planner.make_plan(LADDER, found, {}, budget, phases, corpus, MEMORY, False, frozenset())
    assert set(made.phase_seconds) == set(PHASES)
    same = [name for name in phases if name != "evaluation"]
    assert {name: made.phase_seconds[name] for name in same} == {name: phases[name] for name in same}

    usable = budget * (1 - budget_shares.MARGIN) - budget_shares.START_SECONDS
    for_training = max(budget_shares.LEAST_SHARE * budget, usable - sum(phases.values()))
    assert budget_shares.training_seconds(budget, phases) == for_training
    stepping = sum(planned.seconds for planned in made.ladder)
    aside = made.phase_seconds["training"] - stepping + made.phase_seconds["evaluation"] - phases["evaluation"]
    assert stepping <= for_training * (1 + 1e-9)
    if aside <= for_training / 4:
        assert stepping + aside <= for_training * (1 + 1e-9)
        assert sum(made.phase_seconds.values()) <= (sum(phases.values()) + for_training) * (1 + 1e-9)


@pytest.mark.parametrize("budget", [90.0, 180.0, 600.0, 3600.0])
def test_on_a_usual_machine_the_whole_plan_with_its_margin_fits_the_budget(budget):
    made = plan(LADDER, [speed("small", 0.02), speed("middle", 0.1), speed("large", 0.6)], budget)
    planned = sum(made.phase_seconds.values()) + budget_shares.START_SECONDS
    assert planned <= (1 - budget_shares.MARGIN) * budget + 1e-6
    assert planned >= 0.7 * budget  # and what there is, is used


@given(machines, budgets, st.floats(1.0, 30.0))
def test_a_slower_machine_is_never_given_a_larger_model(speeds, budget, slowness):
    slow = [dataclasses.replace(speed, seconds_per_step=slowness * speed.seconds_per_step) for speed in speeds]
    quick, slowed = (plan(LADDER, machine, budget).ladder[-1] for machine in (speeds, slow))
    # The same model may get more steps: an evaluation fewer leaves a training of seconds a third more time for them.
    assert slowed.parameters <= quick.parameters or slowed.tokens <= quick.tokens
    # Whole evaluations move the plan by a hair; of similar models the larger is taken.
    assert slowed.expected_bits_per_byte >= quick.expected_bits_per_byte / forecast.PLAYS.alike / 1.01


@given(machines, budgets, corpora)
def test_the_ladder_is_never_empty_and_begins_with_the_smallest_or_one_that_is_fed_as_soon(speeds, budget, corpus):
    made = plan(LADDER, speeds, budget, corpus)
    names = [planned.config.name for planned in made.ladder]
    assert names and names == sorted(set(names), key=list(SIZES).index)
    if names[0] != "small":
        first = SIZES[names[0]][1]
        assert planner.FED * first <= corpus.train_tokens
        assert made.ladder[0].tokens >= planner.FED * first / 2  # evaluations and samples take some of the share
    left_out = [row.name for row in made.left_out]
    assert sorted(names + left_out) == sorted(SIZES)  # every model is chosen or left out for a reason
    assert all(row.reason for row in made.left_out)


@settings(max_examples=300)
@given(machines, budgets, st.floats(1.0, 20.0), corpora)
def test_more_time_is_never_expected_to_predict_worse(speeds, budget, times, corpus):
    worse, better = (plan(LADDER, speeds, seconds, corpus).ladder[-1] for seconds in (budget, budget * times))
    # Whole evaluations and steps move the plan by a hair; of similar models the larger is taken.
    assert better.expected_bits_per_byte <= worse.expected_bits_per_byte * forecast.PLAYS.alike * 1.01


@given(machines, budgets, corpora)
def test_the_expectation_counts_only_the_tokens_that_there_is_time_for(speeds, budget, corpus):
    """A model too slow for its least number of steps must not be chosen for tokens that it will never see."""
    for planned in plan(LADDER, speeds, budget, corpus).ladder:
        step = next(speed.seconds_per_step for speed in speeds if speed.name == planned.config.name)
        most = training_seconds(budget, corpus) / step
        assert planned.tokens <= max(1, most) * planned.config.tokens_per_step


@given(machines, budgets, corpora)
def test_the_same_measurements_give_the_same_plan(speeds, budget, corpus):
    assert plan(LADDER, speeds, budget, corpus).facts(PHASES) == plan(LADDER, speeds, budget, corpus).facts(PHASES)


@given(machines, budgets, corpora)
def test_every_planned_model_can_be_trained_as_it_stands(speeds, budget, corpus):
    for planned in plan(LADDER, speeds, budget, corpus).ladder:
        training = planned.config.training
        assert Config.model_validate(planned.config.model_dump()) == planned.config
        assert training.max_iters > training.warmup_iters and training.eval_interval <= training.max_iters
        assert 0 < training.max_seconds <= training_seconds(budget, corpus) + 0.1


# What is left out -------------------------------------------------------------------------------------------------


def test_a_slow_machine_trains_the_small_one_alone_and_says_why():
    made = plan(LADDER, [speed("small", 0.5), speed("middle", 20.0), speed("large", 300.0)], 300.0)
    assert [planned.config.name for planned in made.ladder] == ["small"]
    reasons = {row.name: row.reason for row in made.left_out}
    assert "bits per byte; small reaches about" in reasons["large"]


def test_what_is_left_out_is_told_from_small_to_large_whatever_the_reason():
    made = plan(LADDER, [speed("small", 0.5), speed("middle", 20.0)], 300.0, unmeasured={"large": "too slow"})
    assert [row.name for row in made.left_out] == ["middle", "large"]


def test_a_fast_machine_proves_itself_on_the_small_one_and_gives_the_rest_to_a_large_one():
    made = plan(LADDER, [speed("small", 0.01), speed("middle", 0.02), speed("large", 0.05)], 8 * 3600)
    first, second = made.ladder
    assert (first.config.name, second.config.name) == ("small", "large")
    assert first.seconds <= second.seconds


@pytest.mark.parametrize("needed, fits", [(15.9, True), (16.1, False), (40.0, False)])
def test_a_model_that_does_not_fit_the_memory_is_left_out_with_the_figures(needed, fits):
    fast = [speed("small", 0.01), speed("middle", 0.01), speed("large", 0.01, needed * GIB)]
    made = plan(LADDER, fast, 8 * 3600, memory=16 * GIB)
    assert (made.ladder[-1].config.name == "large") is fits
    if not fits:
        reasons = {row.name: row.reason for row in made.left_out}
        assert f"took {needed:.1f} GiB of memory; a training may take 16.0 GiB" in reasons["large"]


def test_a_model_whose_block_is_longer_than_the_text_is_left_out_with_the_figures():
    short = Corpus(4_000, 4_000, 65, 0.05, 0.05, 1.0)  # 200 characters to validate on
    made = plan(LADDER, [speed("small"), speed("middle"), speed("large")], corpus=short)
    reason = {row.name: row.reason for row in made.left_out}["large"]
    assert "block_size 256" in reason and "200 tokens" in reason


@pytest.mark.parametrize("corpus, memory, words", [
    (dataclasses.replace(PLAY, bytes=1000), MEMORY, "block_size 64 is longer than the validation text of about 50"),
    (PLAY, GIB // 2, "took 1.0 GiB of memory; a training may take 512.0 MiB"),
])  # fmt: skip
def test_when_not_even_the_smallest_fits_a_person_reads_why(corpus, memory, words):
    with pytest.raises(UserError, match=words):
        plan(LADDER, [speed("small"), speed("middle"), speed("large")], corpus=corpus, memory=memory)


@given(st.integers(10**4, 10**9), corpora)
def test_a_model_is_starved_by_less_than_a_twentieth_of_a_token_for_each_parameter(parameters, corpus):
    reason = planner.starved(parameters, corpus)
    assert (reason is None) == (parameters <= 20 * corpus.train_tokens)
    assert reason is None or f"{corpus.train_tokens:,} tokens" in reason


def test_what_was_not_measured_is_left_out_for_the_reason_given():
    made = plan(LADDER, [speed("small")], unmeasured={"middle": "does not fit into memory", "large": "too slow"})
    assert made.left_out == [LeftOut("middle", "does not fit into memory"), LeftOut("large", "too slow")]


# What a person has decided ----------------------------------------------------------------------------------------


@given(machines, budgets, st.integers(50, 10**6))
def test_pinned_steps_stay(speeds, budget, steps):
    pinned = [model(name, max_iters=steps) for name in SIZES]
    made = plan(pinned, speeds, budget, pinned=["training.max_iters"])
    assert {planned.config.training.max_iters for planned in made.ladder} == {steps}


@pytest.mark.parametrize("key, value", [("eval_interval", 7), ("log_interval", 3), ("checkpoint_interval", 11),
                                        ("max_seconds", 33.0)])  # fmt: skip
def test_any_pinned_setting_stays(key, value):
    made = plan([model(**{key: value})], [speed()], pinned=[f"training.{key}"])
    assert getattr(made.ladder[0].config.training, key) == value


@pytest.mark.parametrize("pinned, split", [([], (2, 4)), (["training.batch_size"], (8, 1)),
                                           (["training.gradient_accumulation"], (8, 1))])  # fmt: skip
def test_a_step_is_split_as_measured_unless_a_person_has_split_it(pinned, split):
    fitted = dataclasses.replace(speed(), batch_size=2, gradient_accumulation=4)
    training = plan([model()], [fitted], pinned=pinned).ladder[0].config.training
    assert (training.batch_size, training.gradient_accumulation) == split


@given(st.floats(1e-4, 10.0), budgets)
def test_a_fixed_config_stays_as_it_is_written(seconds_per_step, budget):
    written = model()
    [planned] = plan([written], [speed("small", seconds_per_step)], budget, fixed=True).ladder
    assert planned.config.model == written.model and planned.config.data == written.data
    assert planned.config.training.model_copy(update={"max_seconds": None}) == written.training


@given(st.floats(1e-4, 10.0), budgets)
def test_a_fixed_number_of_steps_has_a_clock_only_when_it_does_not_fit(seconds_per_step, budget):
    [planned] = plan([model()], [speed("small", seconds_per_step)], budget, fixed=True).ladder
    available = training_seconds(budget)
    stepping = 1000 * seconds_per_step
    assume(not 0.25 * available < stepping < available)  # between, the model's start, evaluations and judging decide
    assert (planned.config.training.max_seconds is None) == (stepping < available)


def test_a_written_clock_stays_and_shortens_the_plan():
    [planned] = plan([model(max_seconds=30)], [speed()], fixed=True).ladder
    assert planned.config.training.max_seconds == 30 and planned.seconds <= 30


# The tokenizer, and all that is done between the steps -------------------------------------------------------------


@pytest.mark.parametrize("size, alphabet, asked, chosen", [
    (10**6, 65, "auto", "char"), (10**9, 65, "auto", "bpe"), (10**6, 5000, "auto", "bpe"),
    (10**9, 65, "char", "char"), (10**6, 65, "gpt2", "gpt2"), (10**6, 0, "auto", "bpe"),
])  # fmt: skip
def test_small_text_with_a_small_alphabet_is_learned_by_characters(size, alphabet, asked, chosen):
    assert planner.tokenizer_for(asked, size, alphabet) == chosen


@given(st.floats(1e-3, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 0.5), budgets)
def test_a_plan_holds_all_that_is_done_between_the_steps(seconds_per_step, sample, save, budget):
    """The steps, with everything between them, are planned to end when the time does, whatever each of them costs."""
    measured = dataclasses.replace(speed(seconds_per_step=seconds_per_step), sample_seconds=sample, save_seconds=save)
    [planned] = plan([model()], [measured], budget).ladder
    training = planned.config.training
    between_steps = forecast.seconds_between_steps(planned.config, measured, PLAY, planned.steps)
    needed = planned.steps * seconds_per_step + between_steps
    few = planned.steps <= training.warmup_iters + 30  # the least that is worth it: the clock ends it
    assume(not few and between_steps < training.max_seconds / 2)
    assert 0.8 * training.max_seconds <= needed <= 1.1 * training.max_seconds or _is_all_the_text_is_worth(training)


@given(st.floats(1e-3, 1.0), st.floats(1.0, 30.0), st.sampled_from(list(SIZES)))
def test_the_oftener_a_text_is_read_and_the_larger_the_model_the_more_weight_decay(seconds_per_step, faster, name):
    def decay(size: str, seconds: float) -> float:
        return plan([model(size)], [speed(size, seconds)]).ladder[0].config.training.weight_decay

    slow = decay(name, seconds_per_step)
    assert slow <= decay(name, seconds_per_step / faster) <= 2.0
    assert decay("small", seconds_per_step) <= slow
    assert decay("small", 1.0) == 0.0 < decay("small", 1e-3)


def test_weight_decay_goes_by_the_steps_that_are_made_where_the_time_allows_more():
    """A million parameters for a million characters: of 8 passes the weights are to remember 0.75, of 16 0.38."""
    fast = [speed("small", 1e-4)]  # in the time of the plan 2,500 passes

    def decay(pinned: tuple[str, ...] = (), **training: object) -> float:
        return plan([model(**training)], fast, pinned=pinned).ladder[0].config.training.weight_decay

    assert decay() > 0.0  # 30 passes are planned at most
    assert decay(("training.max_iters",), max_iters=1000) == 0.0  # half a pass
    eight, sixteen = (decay(("training.max_iters",), max_iters=number) for number in (15_000, 32_000))
    assert 1.9 * eight < sixteen == decay()


@given(st.integers(1, 256), st.sampled_from([0.01, 0.02, 0.03]), st.sampled_from([1, 2]))
def test_how_much_of_a_text_weights_remember_depends_on_neither_batch_nor_rate(sequences, rate, interval):
    """A step decays the weights by rate x decay; longer steps are fewer. 30 passes are planned."""
    training = {"batch_size": sequences, "muon_learning_rate": rate, "muon_interval": interval}
    [planned] = plan([model(**training)], [speed("small", 1e-4 * sequences / 8)]).ladder
    steps_of_a_pass = PLAY.train_tokens / (64 * sequences)
    decay = planned.config.training.weight_decay  # two digits of it
    assert decay * rate / interval * steps_of_a_pass == pytest.approx(1 / 0.38, rel=0.06) or decay == 2.0


def test_a_schedule_that_does_not_follow_the_clock_has_the_steps_that_its_time_allows():
    """With more it would be cut off before its learning rate has come down."""
    steps = {name: plan([model(schedule=name)], [speed(seconds_per_step=0.1)]).ladder[0].config.training.max_iters
             for name in ("wsd", "cosine")}  # fmt: skip
    assert steps["wsd"] == pytest.approx(planner.KINDER * steps["cosine"], rel=0.01)


def test_a_number_of_steps_that_a_person_has_set_is_evaluated_on_its_way():
    fast = [speed("small", 1e-4)]  # the time would allow millions
    training = plan([model(max_iters=1000)], fast, pinned=["training.max_iters"]).ladder[0].config.training
    assert training.max_iters == 1000 and max(training.eval_interval, training.sample_interval) <= 500


def test_weight_decay_that_a_person_has_set_stays():
    fast = [speed("small", 1e-3)]
    assert plan([model(weight_decay=0.0)], fast, pinned=["training.weight_decay"]).ladder[0].config.training == (
        plan([model()], fast, pinned=["training.weight_decay"]).ladder[0].config.training
    )
    assert plan([model(weight_decay=2.0)], fast).ladder[0].config.training.weight_decay == 2.0
    assert plan([model(weight_decay=0.05)], fast, fixed=True).ladder[0].config.training.weight_decay == 0.05


def _is_all_the_text_is_worth(training) -> bool:
    step_tokens = model().tokens_per_step
    return training.max_iters == int(planner.MOST_EPOCHS * PLAY.train_tokens / step_tokens)


def test_a_model_whose_checkpoints_are_slow_saves_seldom():
    slow = dataclasses.replace(speed(seconds_per_step=1.0), save_seconds=30.0)
    training = plan([model()], [slow], 8 * 3600).ladder[0].config.training
    assert training.checkpoint_interval * 1.0 >= 100 * 30 and training.checkpoint_minutes >= 50


@given(budgets, st.floats(0.1, 30.0))
def test_a_training_that_another_plan_began_gets_no_fewer_steps_whatever_the_machine(budget, slowness):
    begun = plan([model("middle")], [speed("middle", 0.01)], 600.0).ladder[0].config.training
    phases = budget_shares.by_experience(budget, PLAY.bytes)
    found = {"middle": speed("middle", 0.01 * slowness)}
    [planned] = planner.make_plan([model("middle")], found, {}, budget, phases, PLAY, MEMORY, False, frozenset(),
                                  begun={"middle": begun}).ladder  # fmt: skip
    training = planned.config.training
    assert training.max_iters >= begun.max_iters
    assert training.max_iters > begun.max_iters or training.weight_decay == begun.weight_decay
    assert planned.seconds <= budget


# Planned again in the middle of the training ----------------------------------------------------------------------


def again(speeds, trained, seconds, budget=600.0, corpus=PLAY):
    phases = budget_shares.by_experience(budget, corpus.bytes)
    return planner.make_plan(LADDER, {speed.name: speed for speed in speeds}, {}, budget, phases, corpus, MEMORY, False,
                             frozenset(), trained, seconds).ladder  # fmt: skip


@given(machines, budgets, st.floats(0.0, 1.0))
def test_what_is_trained_stays_or_continues_and_is_never_made_anew(speeds, budget, left):
    first = plan(LADDER, speeds, budget).ladder[0]
    fewer = [speed for speed in speeds if speed.name != "large"]
    seconds = first.seconds + left * budget
    ladder = again(fewer, [first], seconds, budget)
    small = ladder[0].config
    assert small.model == first.config.model
    assert small.training.max_iters >= first.config.training.max_iters
    if len(ladder) == 2:
        assert ladder[0] == first and ladder[1].config.name == "middle"
    elif ladder[0] != first:
        assert small.training.max_iters >= planner.WORTH_CONTINUING * first.config.training.max_iters


@given(machines, budgets, st.integers(1, 2), st.floats(0.0, 1.0))
def test_all_that_is_trained_stays_and_nothing_smaller_follows(speeds, budget, count, left):
    """On a text so large that the first proof may be any of the three."""
    web = Corpus(10**10, 10**10, 65, 0.001, 0.001, 4.0)
    trained = plan(LADDER, speeds, budget, web).ladder[:count]
    ladder = again(speeds, trained, sum(model.seconds for model in trained) + left * budget, budget, web)
    assert [model.name for model in ladder[: len(trained)]] == [model.name for model in trained]
    assert ladder[: len(trained) - 1] == trained[:-1]
    sizes = [model.parameters for model in ladder]
    assert sizes == sorted(set(sizes))


def test_a_small_model_that_had_a_share_of_the_time_gets_what_a_larger_one_leaves():
    speeds = [speed("small", 0.1), speed("middle", 0.15)]
    first, best = plan(LADDER, speeds, 3600.0).ladder
    assert best.config.name == "middle"
    [alone] = again(speeds[:1], [first], first.seconds + 1800.0, 3600.0)
    assert alone.config.training.max_iters > 3 * first.config.training.max_iters
    assert again(speeds[:1], [first], first.seconds + 10.0, 3600.0) == [first]


@given(machines, budgets, st.floats(1.0, 100.0), st.floats(10.0, 1e6))
def test_what_is_planned_again_takes_no_more_than_is_left(speeds, budget, slowness, left):
    """However slow the machine has become since what is trained was planned."""
    first = plan(LADDER, speeds, budget).ladder[0]
    slow = [dataclasses.replace(speed, seconds_per_step=slowness * speed.seconds_per_step) for speed in speeds]
    ladder = again(slow, [first], first.seconds + left, budget)
    if ladder[0] == first:  # stays as it is
        assert sum(planned.seconds for planned in ladder[1:]) <= left * (1 + 1e-9)
    else:  # continues
        assert [planned.config.name for planned in ladder] == ["small"]
        assert ladder[0].seconds <= (first.seconds + left) * (1 + 1e-9)


def test_a_larger_model_is_expected_to_gain_little_more_than_those_before_it_gained():
    """10 M parameters in ten minutes of 1e11 FLOP/s, or of 2.5 times as many."""

    def reason(*rates: float) -> str | None:
        seen = [dataclasses.replace(speed(), flops_per_second=rate) for rate in rates]
        return planner.hopeless("large", 10**7, seen, dict.fromkeys([*SIZES, "large"], 512), 600.0, PLAY)

    assert reason(1e11) is None and reason(0.6e11, 1e11) is None, "may reach 2.5 times as many"
    little = reason(0.9e11, 1e11)
    assert little is not None and "even at 167 GFLOP/s" in little
    assert reason(2e11, 1e11) is None, "may reach 3e11"


@given(budgets, st.floats(0.001, 0.1))
def test_a_first_proof_takes_no_more_than_what_feeds_it(budget, seconds_per_step):
    speeds = [speed("small", seconds_per_step), speed("middle", 3 * seconds_per_step)]
    first, *larger = plan(LADDER, speeds, budget).ladder
    assume(larger)  # else it has all the time
    feeding = planner.FED * first.parameters / first.config.tokens_per_step * seconds_per_step
    assert first.seconds <= max(budget_shares.LEAST_SECONDS, 1.1 * feeding)
