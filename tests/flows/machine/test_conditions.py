"""A laptop around a run: its battery runs low, it sleeps, it gets hot - with what psutil and pmset say of it."""

import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from flows.context import budget_clock
from flows.machine import awake, conditions
from tests.flows.parts import Parts

pytestmark = pytest.mark.fast
STEP = "training.micro"


class Laptop:
    """Its battery's story, one state a look; the last one lasts."""

    def __init__(self, monkeypatch):
        self.story: list[tuple[float, bool | None] | None] = [(80.0, True)]
        monkeypatch.setattr(psutil, "sensors_battery", self._battery, raising=False)
        monkeypatch.setattr(conditions, "SECONDS_BETWEEN_LOOKS", 0.0)

    def _battery(self):
        state = self.story.pop(0) if len(self.story) > 1 else self.story[0]
        return state and SimpleNamespace(percent=state[0], power_plugged=state[1], secsleft=0)


@pytest.fixture
def laptop(monkeypatch) -> Laptop:
    return Laptop(monkeypatch)


@pytest.fixture
def parts(tmp_path) -> Parts:
    return Parts(tmp_path)


# Battery ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state, pauses", [
    ((19.0, False), True),  # low and on battery
    ((20.0, False), False),  # the set charge itself is enough
    ((5.0, True), False),  # charging
    ((5.0, None), False),  # the system does not say: a run is not stopped on a guess
    (None, False),  # no battery
])  # fmt: skip
def test_training_pauses_only_below_the_set_charge_and_on_battery(tmp_path, laptop, state, pauses):
    laptop.story = [state]
    assert bool(Parts(tmp_path, min_charge=20).conditions.reason_to_pause(STEP)) == pauses
    assert Parts(tmp_path, min_charge=0).conditions.reason_to_pause(STEP) == ""


def test_it_continues_at_five_percent_more_and_waiting_does_not_count(tmp_path, laptop, monkeypatch):
    parts, naps, real = Parts(tmp_path, min_charge=30), [], time.monotonic
    clocks = SimpleNamespace(sleep=naps.append, monotonic=lambda: real() + 600 * len(naps))
    monkeypatch.setattr(conditions, "time", clocks)
    monkeypatch.setattr(budget_clock, "time", clocks)
    monkeypatch.setattr(budget_clock, "seconds_asleep", lambda: 0.0)
    laptop.story = [(29.0, False), (25.0, False), (34.0, False), (35.0, False)]
    spent = parts.clock.spent
    parts.conditions.wait_for_power(STEP)
    assert len(naps) == 3
    assert parts.clock.spent - spent < 60
    [row] = parts.journal.remedies
    assert (row.symptom, row.step, row.evidence) == ("low_charge", STEP, "battery 29 %, discharging")
    assert row.outcome == "continued with battery 35 %, discharging" and row.cost_seconds >= 1800
    assert "waits for power, or for 35 %" in parts.log and parts.pulses == 3


def test_it_continues_as_soon_as_there_is_power(parts, laptop):
    laptop.story = [(3.0, False), (2.0, False), (2.0, True)]
    parts.conditions.wait_for_power(STEP)
    assert parts.journal.remedies[0].outcome == "continued with battery 2 %, on power"
    parts.conditions.wait_for_power(STEP)
    assert len(parts.journal.remedies) == 1


def test_a_person_can_stop_a_run_that_waits(parts, laptop, monkeypatch):
    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(conditions, "time", SimpleNamespace(sleep=interrupted, monotonic=time.monotonic))
    laptop.story = [(3.0, False)]
    with pytest.raises(KeyboardInterrupt):
        parts.conditions.wait_for_power(STEP)
    before = parts.clock.spent
    assert 0 <= parts.clock.spent - before < 1  # the clock runs again


def test_the_machine_may_sleep_while_the_run_waits(parts, laptop, monkeypatch):
    held = []
    monkeypatch.setattr(awake.Awake, "hold", lambda self: held.append("held") or "")
    monkeypatch.setattr(awake.Awake, "release", lambda self: held.append("released"))
    parts.conditions.begin()
    laptop.story = [(3.0, False), (3.0, True)]
    parts.conditions.wait_for_power(STEP)
    parts.conditions.end()
    assert held == ["held", "released", "held", "released"]


def test_plugging_in_and_out_is_noted(parts, laptop):
    laptop.story = [(80.0, True)]
    parts.conditions.begin()
    laptop.story = [(80.0, False), (79.0, False), (79.0, True)]
    for _ in range(3):
        parts.conditions.look(STEP)
    assert "power and heat: battery 80 %, on power" in parts.log
    assert parts.log.count("power: battery") == 2


# Sleep ------------------------------------------------------------------------------------------------------------


def test_sleep_is_reported_once_and_left_out_of_the_budget(parts, laptop, monkeypatch):
    before = budget_clock.seconds_asleep()  # a laptop that runs this has slept already
    monkeypatch.setattr(budget_clock, "seconds_asleep", lambda: before + 2580.0)
    for _ in range(2):
        parts.conditions.look(STEP)
    [row] = parts.journal.remedies
    assert (row.symptom, row.cost_seconds) == ("asleep", pytest.approx(2580, abs=60))
    assert "asleep for 43 min" in parts.log and parts.clock.spent < 60


# Heat -------------------------------------------------------------------------------------------------------------


def test_heat_is_reported_when_it_comes_and_when_it_goes(parts, laptop, monkeypatch):
    monkeypatch.setattr(conditions, "SECONDS_BETWEEN_THERMOMETERS", 0.0)
    monkeypatch.setattr(sys, "platform", "linux")
    temperature = SimpleNamespace(label="", current=60.0, high=100.0, critical=105.0)
    spare = SimpleNamespace(label="", current=45.0, high=None, critical=None)
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: {"coretemp": [spare, temperature]}, raising=False)
    parts.conditions.begin()
    for current in (70.0, 97.0, 99.0, 60.0):
        temperature.current = current
        parts.conditions.look(STEP)
    assert parts.log.count("is hot") == parts.log.count("cool again") == 1
    assert "(97 °C of 100 °C)" in parts.log


@pytest.mark.parametrize("error", [AttributeError, FileNotFoundError, NotImplementedError, ValueError])
def test_where_nothing_can_be_read_nothing_is_claimed(parts, monkeypatch, error):
    def unreadable():
        raise error("what the driver says")

    monkeypatch.setattr(psutil, "sensors_battery", unreadable, raising=False)
    monkeypatch.setattr(psutil, "sensors_temperatures", unreadable, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    parts.conditions.begin()
    parts.conditions.look(STEP)
    assert "power and heat: unknown on this machine" in parts.log
