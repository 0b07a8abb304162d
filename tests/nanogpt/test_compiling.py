"""What torch.compile gains is measured with one model at a time; compiling itself is the compiler's."""

import gc
import weakref

import pytest

from nanogpt import device as devices
from nanogpt.measure import compiling
from tests.nanogpt.training_case import tiny

pytestmark = pytest.mark.fast
EAGER, COMPILED, COMPILING = 2.0, 1.0, 60.0  # seconds that a step takes, and the first compiled one more


class Machine:
    """A clock that steps move on, and the models that live."""

    def __init__(self):
        self.now, self.alive, self.most_alive = 0.0, weakref.WeakSet(), 0

    def real_step(self, config, device, precision):
        gc.collect()
        real = StandIn(self, config.device.compile)
        self.alive.add(real)
        self.most_alive = max(self.most_alive, len(self.alive))
        return real

    def peak_memory(self, device):
        return {(): 1, (False,): 2, (True,): 3}[tuple(real.is_compiled for real in self.alive)]


class StandIn:
    def __init__(self, machine: Machine, is_compiled: bool):
        self.machine, self.is_compiled, self.steps = machine, is_compiled, 0

    def run(self):
        self.steps += 1
        compiling_too = COMPILING if self.is_compiled and self.steps == 1 else 0.0
        self.machine.now += (COMPILED if self.is_compiled else EAGER) + compiling_too


def test_one_model_at_a_time_is_measured_and_the_peak_is_the_compiled_ones(monkeypatch):
    machine = Machine()
    monkeypatch.setattr(compiling, "RealStep", machine.real_step)
    monkeypatch.setattr(compiling.time, "perf_counter", lambda: machine.now)
    monkeypatch.setattr(devices, "peak_memory", machine.peak_memory)
    config = tiny().with_changes({"model.vocab_size": 65, "device.type": "cpu"})
    found = compiling.compare_compiled(config.model_dump(), "cpu", seconds=40)
    assert (machine.most_alive, found.peak_memory_bytes) == (1, 3)
    assert (found.eager_seconds_per_step, found.seconds_per_step, found.compile_seconds) == (EAGER, COMPILED, COMPILING)
