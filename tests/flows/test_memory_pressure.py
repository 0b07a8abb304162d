"""Whether a SIGKILL was for want of memory: by what was left, what could be dropped aside, and by the kernel."""

from pathlib import Path

import pytest
from flows.machine.memory_pressure import MemoryPressure

from flows.machine import memory_pressure

pytestmark = pytest.mark.fast
GIB = 2**30


@pytest.fixture
def group(tmp_path, monkeypatch):
    """A control group of 4 GiB."""
    files = memory_pressure.GroupFiles(tmp_path, "memory.max", "memory.current", "inactive_file", "memory.events")
    monkeypatch.setattr(memory_pressure, "_groups", lambda: [(tmp_path, files)])

    def tell(used: float, cache: float = 0.0, kills: int = 0, limit: str = str(4 * GIB)) -> None:
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text(str(int(used * GIB)))
        (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {int(cache * GIB)}\n")
        (tmp_path / "memory.events").write_text(f"low 0\noom 0\noom_kill {kills}\n")

    tell(1.0)
    return tell


def test_a_group_at_its_limit_is_pressure_unless_it_is_filled_with_files(group):
    group(3.95)
    assert "1% of memory left" in MemoryPressure().evidence()
    group(3.95, cache=3.5)
    assert MemoryPressure().evidence() == ""


def test_a_group_without_a_limit_says_nothing(group):
    group(3.95, limit="max")
    assert MemoryPressure().evidence() == ""


def test_what_was_left_before_a_death_counts_not_what_it_gave_back(group):
    pressure = MemoryPressure()
    group(3.95)
    pressure.look()
    group(0.1)
    pressure.look()
    assert pressure.evidence()


def test_a_kill_of_the_kernel_counts_when_it_is_of_the_last_seconds(group, monkeypatch):
    pressure = MemoryPressure()
    group(1.0, kills=1)
    assert "the kernel has killed" in pressure.evidence()
    monkeypatch.setattr(memory_pressure, "REMEMBERED_SECONDS", 0.0)
    pressure.look()
    pressure.look()
    assert pressure.evidence() == ""


def test_this_machine_can_be_asked():
    assert 0 <= memory_pressure.share_left() <= 1 and memory_pressure.kernel_kills() >= 0
    assert Path("/proc/vmstat").exists() or memory_pressure.kernel_kills() == 0
