"""A step is kept or done, alone or in the background, and what became of it is recorded with its reason."""

import errno
import signal
import threading
import time
from contextlib import suppress
from dataclasses import replace

import pytest

from flows.context import stop_signal
from flows.ledger.facts import Key
from flows.ledger.steps import StepResult
from flows.runner import step_runner
from flows.runner.step_runner import Blocked, Work
from tests.flows.small_flow import ALL, DEVICE, FETCH, JUDGE, REPORT, TRAIN, Flow, Made, Parts

pytestmark = pytest.mark.fast
EVERY = (DEVICE, FETCH, TRAIN, JUDGE, REPORT)


@pytest.fixture
def flow(tmp_path) -> Flow:
    return Flow(tmp_path)


def test_a_first_start_does_every_step_once_and_logs_it(flow):
    parts = Parts(flow)
    assert parts.do(*EVERY) == [Made(name) for name in ALL]
    assert flow.worked == ALL
    assert parts.states() == dict.fromkeys(ALL, "done")
    assert parts.steps.facts(TRAIN) == Made("training.micro")
    for name in ALL:
        assert f"{name}: started (never run)" in flow.log and f"{name}: finished in" in flow.log


def test_a_second_start_keeps_everything_and_says_why(flow):
    Parts(flow).do(*EVERY)
    flow.worked.clear()
    parts = Parts(flow)
    assert parts.do(*EVERY) == [Made(name) for name in ALL] and flow.worked == []
    assert parts.states() == dict.fromkeys(ALL, "kept")
    [kept] = parts.steps.records("training")
    assert "inputs and outputs unchanged" in kept.reason and f"kept ({kept.reason})" in flow.log


def test_a_step_that_is_left_out_says_so_wherever_it_is_named(flow):
    flow.left_out[TRAIN.step] = "a budget of 1 min leaves no time for it"
    parts = Parts(flow)
    assert parts.do(FETCH, TRAIN) == [Made("dataset.fetch"), Made("nothing")]
    [record] = parts.steps.records("training")
    assert (record.state, record.reason) == ("left out", flow.left_out[TRAIN.step])
    assert f"training.micro: left out: {record.reason}" in flow.log and "training.micro: finished" not in flow.log
    ended = parts.journal.timeline.moments()[-1]  # or the report's time line would draw it to the end of the run
    assert (ended.event, ended.name, ended.outcome) == ("step ended", "training.micro", "left out")
    parts = Parts(flow)
    parts.do(FETCH, TRAIN)
    [record] = parts.steps.records("training")
    assert record.state == "kept" and f": {flow.left_out[TRAIN.step]}, inputs" in record.reason
    assert record.reason.startswith("left out ")
    flow.left_out.clear()
    flow.settings[TRAIN.step] = {"budget": 600}
    assert parts.do(TRAIN) == [Made("training.micro")] and parts.states()[TRAIN.step] == "done"


def test_a_changed_setting_runs_its_step_again_and_only_that_when_the_output_is_the_same(flow):
    Parts(flow).do(*EVERY)
    flow.worked.clear()
    flow.settings["dataset.fetch"] = {"source": "mine"}
    parts = Parts(flow)
    parts.do(*EVERY)
    assert flow.worked == ["dataset.fetch"]
    assert parts.states()["training.micro"] == "kept"


def test_a_signal_whose_interrupt_a_library_swallowed_stops_the_run_before_its_next_step(flow):
    parts = Parts(flow)
    parts.do(FETCH)
    with suppress(KeyboardInterrupt):  # as pydantic's serializers do: "Exception ignored in: 'mirror'"
        stop_signal.interrupt(signal.SIGTERM, None)
    with pytest.raises(KeyboardInterrupt):
        parts.do(DEVICE)
    parts.do(DEVICE)
    assert flow.worked == ["dataset.fetch", DEVICE.step]


def test_redo_runs_a_step_once_even_when_it_is_prefetched(flow):
    Parts(flow).do(FETCH)
    parts = Parts(flow, redo=("dataset.fetch",))
    parts.steps.prefetch(flow.work(FETCH))
    parts.do(FETCH, FETCH)
    assert flow.worked == ["dataset.fetch"] * 2  # once in each start


def test_a_failure_is_recorded_with_its_cause_and_the_next_start_tries_again(flow):
    flow.failing["dataset.fetch"] = MemoryError()
    parts = Parts(flow)
    with pytest.raises(MemoryError):
        parts.do(FETCH)
    assert [(record.state, record.reason) for record in parts.steps.records("dataset")] == [("failed", "MemoryError")]
    assert parts.ledger.marker("dataset.fetch").cause == "MemoryError"
    flow.failing.clear()
    Parts(flow).do(FETCH)
    assert flow.worked == ["dataset.fetch"] * 2


@pytest.mark.parametrize(
    "at_least, finished, runs",
    [
        ("all", [DEVICE], False),
        ("all", [DEVICE, FETCH], True),
        ("one", [], False),
        ("one", [FETCH], True),
        ("none", [], True),
    ],
)
def test_a_step_runs_when_it_has_as_many_of_its_needs_as_it_must(flow, at_least, finished, runs):
    parts = Parts(flow)
    parts.do(*finished)
    step = replace(flow.work(REPORT, needs_at_least=at_least), needs=(DEVICE.step, FETCH.step))
    if runs:
        assert parts.steps.do(step) == Made("documentation.report")
    else:
        with pytest.raises(Blocked, match="has not finished"):
            parts.steps.do(step)


def test_a_panic_of_a_library_in_rust_fails_its_step_and_not_the_run(flow):
    class PanicException(BaseException):
        """As pyo3_runtime's, which is no Exception."""

    def panics() -> StepResult[Made]:
        raise PanicException("The global thread pool has not been initialized.")

    parts = Parts(flow)
    with pytest.raises(RuntimeError, match="global thread pool"):
        parts.steps.do(replace(flow.work(FETCH), run=panics))
    assert parts.states() == {FETCH.step: "failed"}


def test_facts_of_a_step_that_has_not_finished_in_this_start_are_refused(flow):
    Parts(flow).do(FETCH, TRAIN)
    with pytest.raises(Blocked, match=r"training\.micro has not finished"):
        Parts(flow).steps.facts(TRAIN)  # it finished once, and has not been looked at since


def test_steps_in_the_background_run_at_once_and_each_is_settled(flow):
    both = threading.Barrier(2, timeout=10)

    def meet() -> StepResult[Made]:
        both.wait()
        return StepResult(Made("both"))

    first, second = (
        Work(key=Key(f"environment.{name}", Made), title=name, run=meet, settings=dict) for name in ("first", "second")
    )
    parts = Parts(flow)
    join = parts.steps.start_in_background(first)
    parts.steps.do(second)
    assert join() == Made("both") == parts.steps.facts(first.key)
    assert parts.states() == {"environment.first": "done", "environment.second": "done"}


def test_a_wait_for_the_background_shows_that_the_run_is_alive_but_not_for_ever(flow, monkeypatch):
    monkeypatch.setattr(step_runner, "SECONDS_BETWEEN_PULSES", 0.01)
    monkeypatch.setattr(step_runner, "MOST_PULSES", 5)
    parts = Parts(flow)

    def make() -> StepResult[Made]:
        deadline = time.monotonic() + 20
        while parts.pulses < 1 + 5 and time.monotonic() < deadline:  # one of its start
            time.sleep(0.01)
        time.sleep(0.2)  # here it hangs: nothing more is to be heard of it
        return flow.make(FETCH.step)

    parts.steps.start_in_background(replace(flow.work(FETCH), run=make))()
    assert parts.pulses == 1 + 5 + 1


def test_a_full_disk_in_the_background_is_waited_for_where_the_step_is_waited_for(flow):
    threads = []

    def make() -> StepResult[Made]:
        threads.append(threading.current_thread() is threading.main_thread())
        if len(threads) == 1:
            raise OSError(errno.ENOSPC, "No space left on device", str(flow.workspace))
        return StepResult(Made("it"))

    parts = Parts(flow)
    join = parts.steps.start_in_background(replace(flow.work(FETCH), run=make))
    assert join() == Made("it") and threads == [False, True]


# Prefetched


def test_a_prefetched_step_is_done_once_and_counts_as_done_in_its_own_phase(flow):
    parts = Parts(flow)
    parts.steps.prefetch(flow.work(FETCH))
    parts.do(DEVICE, FETCH)
    assert sorted(flow.worked) == ["dataset.fetch", "environment.device"]
    assert parts.states()["dataset.fetch"] == "done"


def test_a_step_whose_prefetch_fails_is_tried_again_in_its_own_place(flow):
    flow.failing["dataset.fetch"] = OSError("no network")
    parts = Parts(flow)
    parts.steps.prefetch(flow.work(FETCH))
    with pytest.raises(OSError, match="no network"):
        parts.do(FETCH)
    assert flow.worked == ["dataset.fetch"] * 2


def test_settings_that_cannot_be_read_early_fail_in_the_steps_own_place(flow):
    flow.settings["dataset.fetch"] = OSError("text.txt is gone")
    parts = Parts(flow)
    parts.steps.prefetch(flow.work(FETCH))
    with pytest.raises(OSError, match=r"text\.txt is gone"):
        parts.do(FETCH)


# Damage


def test_damaged_output_is_made_again_and_reported_with_what_that_took(flow):
    Parts(flow).do(FETCH)
    (flow.workspace / "data/default/dataset.fetch.bin").write_text("half")
    parts = Parts(flow)
    parts.do(FETCH)
    [row] = parts.journal.remedies
    assert (row.symptom, row.step, row.remedy, row.outcome) == ("corrupt_file", FETCH.step, "made again", "done")
    assert "dataset.fetch.bin is 9 bytes short" in row.evidence
    assert parts.ledger.marker(FETCH.step).remedies == [row]


def test_what_a_step_decided_is_put_back_and_the_step_kept(flow):
    plan = flow.work(FETCH, decides=True)
    Parts(flow).steps.do(plan)
    output = flow.workspace / "data/default/dataset.fetch.bin"
    output.write_text("half")
    parts = Parts(flow)
    parts.steps.do(plan)
    [row] = parts.journal.remedies
    assert (row.remedy, row.outcome) == ("put back from its copy", "kept")
    assert output.read_text() == "dataset.fetch" and flow.worked == ["dataset.fetch"]
