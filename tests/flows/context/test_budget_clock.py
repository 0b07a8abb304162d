"""The budget's clock on a machine that sleeps, is killed, and whose calendar jumps."""

import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.context import budget_clock
from flows.context.budget_clock import BudgetClock

pytestmark = pytest.mark.fast

BUDGET = 10_000.0
SECONDS = st.floats(0, 5000, allow_nan=False)
EVENTS = st.lists(st.one_of(
    st.tuples(st.just("works"), SECONDS),
    st.tuples(st.just("sleeps"), SECONDS),
    st.tuples(st.just("waits"), SECONDS),
    st.tuples(st.just("is set to another time"), st.floats(-1e9, 1e9)),
    st.tuples(st.just("is killed"), SECONDS),
    st.tuples(st.just("is rebooted"), SECONDS),
), max_size=30)  # fmt: skip


class Machine:
    """Its clocks, as the `time` module gives them: one stands still in sleep, one does not, one is set by people."""

    CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_UPTIME_RAW, CLOCK_MONOTONIC_RAW = "awake", "boot", "awake", "boot"

    def __init__(self):
        self.clocks = {"awake": 100.0, "boot": 150.0, "wall": 1.7e9}

    def pass_time(self, seconds: float, asleep: bool = False) -> None:
        for name in self.clocks:
            self.clocks[name] += 0.0 if asleep and name == "awake" else seconds

    def reboot(self) -> None:
        self.clocks["awake"] = self.clocks["boot"] = 5.0

    def monotonic(self) -> float:
        return self.clocks["awake"]

    def clock_gettime(self, name: str) -> float:
        return self.clocks[name]

    def time(self) -> float:
        return self.clocks["wall"]


@given(EVENTS, st.sampled_from(["linux", "darwin", "somewhere"]))
def test_only_waking_time_is_spent_whatever_happens(events, platform):
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        machine = Machine()
        patch.setattr(budget_clock, "time", machine)
        patch.setattr(budget_clock, "sys", SimpleNamespace(platform=platform))
        watch = BudgetClock(Path(folder) / "clock.json", BUDGET)
        spent = slept = reported = 0.0
        for what, amount in events:
            if what == "works":
                machine.pass_time(amount)
                spent += amount
            elif what == "sleeps":
                machine.pass_time(amount, asleep=True)
                slept += amount
            elif what == "waits":
                with watch.stopped():
                    machine.pass_time(amount)
                    assert watch.spent == pytest.approx(spent, abs=1)
            elif what == "is set to another time":
                machine.clocks["wall"] += amount
            else:
                watch.save()
                reported += watch.slept()
                machine.pass_time(amount)
                if what == "is rebooted":
                    machine.reboot()
                watch = BudgetClock(watch.path, BUDGET)
                assert watch.resume()
        rounding = 0.05 * len(events) + 1e-3
        assert watch.spent == pytest.approx(spent, abs=rounding)
        assert watch.left == pytest.approx(BUDGET - spent, abs=rounding)
        assert reported + watch.slept() == pytest.approx(0.0 if platform == "somewhere" else slept, abs=1e-3)
        assert watch.slept() == 0.0  # each sleep is reported once


def test_a_kill_while_it_waits_costs_the_budget_nothing(tmp_path, monkeypatch):
    machine = Machine()
    monkeypatch.setattr(budget_clock, "time", machine)
    watch = BudgetClock(tmp_path / "clock.json", BUDGET)
    machine.pass_time(60)
    with watch.stopped():
        machine.pass_time(3600)
        watch.save()
    later = BudgetClock(watch.path, BUDGET)
    assert later.resume() and later.spent == 60


def test_this_machine_tells_of_its_sleep():
    """Whatever it has slept so far, it did not between two lines."""
    before = budget_clock.seconds_asleep()
    time.sleep(0.05)
    assert before >= -0.001 and budget_clock.seconds_asleep() - before == pytest.approx(0, abs=0.001)
