"""What torch.compile gains is measured with one model at a time; compiling itself is the compiler's."""

import gc
import weakref

import pytest

from nanogpt import device as devices
from nanogpt.measure import compiling
from tests.nanogpt.training_case import tiny

pytestmark = pytest.mark.fast
EAGER, COMPILED, COMPILING = 2.0, 1.0, 60.0  # seconds that a step takes, and the first compiled one more
PEAK = {False: 5, True: 3}  # bytes of a step, eager or compiled


class Machine:
    """A clock that steps move on, each model by `slower` times more than the one before; the models that live, and the
    highest of their peaks since it was reset."""

    def __init__(self, slower: float = 1.0):
        self.now, self.alive, self.most_alive = 0.0, weakref.WeakSet(), 0
        self.slower, self.pace, self.peak = slower, 1 / slower, 0

    def real_step(self, config, device, precision):
        gc.collect()
        self.pace *= self.slower
        real = StandIn(self, config.device.compile)
        self.alive.add(real)
        self.most_alive = max(self.most_alive, len(self.alive))
        return real

    def reset_peak_memory(self, device):
        self.peak = 0

    def peak_memory(self, device):
        return self.peak


class StandIn:
    def __init__(self, machine: Machine, is_compiled: bool):
        self.machine, self.is_compiled, self.steps = machine, is_compiled, 0

    def run(self):
        self.steps += 1
        self.machine.peak = max(self.machine.peak, PEAK[self.is_compiled])
        compiling_too = COMPILING if self.is_compiled and self.steps == 1 else 0.0
        self.machine.now += (COMPILED if self.is_compiled else EAGER) * self.machine.pace + compiling_too


def compared_on(machine: Machine, monkeypatch):
    monkeypatch.setattr(compiling, "RealStep", machine.real_step)
    monkeypatch.setattr(compiling.time, "perf_counter", lambda: machine.now)
    for name in ("peak_memory", "reset_peak_memory"):
        monkeypatch.setattr(devices, name, getattr(machine, name))
    config = tiny().with_changes({"model.vocab_size": 65, "device.type": "cpu"})
    return compiling.compare_compiled(config.model_dump(), "cpu", seconds=40)


def test_one_model_at_a_time_is_measured_and_the_peak_is_the_compiled_ones(monkeypatch):
    machine = Machine()
    found = compared_on(machine, monkeypatch)
    assert (machine.most_alive, found.peak_memory_bytes) == (1, PEAK[True])
    assert (found.eager_seconds_per_step, found.seconds_per_step, found.compile_seconds) == (EAGER, COMPILED, COMPILING)


@pytest.mark.parametrize("slower", [1.5, 1 / 1.5])
def test_a_machine_that_changes_meanwhile_changes_both_speeds_alike(monkeypatch, slower):
    """Each turn in eager mode has one vote, though the quicker one has more steps."""
    found = compared_on(Machine(slower), monkeypatch)
    assert found.seconds_per_step == pytest.approx(COMPILED * slower)
    assert found.eager_seconds_per_step == pytest.approx(EAGER * (1 + slower**2) / 2)
