"""Whether a SIGKILL was for want of memory: by what was left, what could be dropped aside, and by the kernel."""

import os
import sys
from pathlib import Path

import pytest

from nanogpt.process import memory_pressure
from nanogpt.process.memory_pressure import MemoryPressure
from nanogpt.units import GIB

pytestmark = pytest.mark.fast


@pytest.fixture
def group(tmp_path, monkeypatch):
    """A control group of 4 GiB."""
    monkeypatch.setattr(memory_pressure, "_groups", lambda: [(tmp_path, memory_pressure.FILES[2])])

    def tell(used: float, cache: float = 0.0, kills: int = 0, limit: str = str(4 * GIB)) -> None:
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text(str(int(used * GIB)))
        (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {int(cache * GIB)}\n")
        (tmp_path / "memory.events").write_text(f"low 0\noom 0\noom_kill {kills}\n")

    tell(1.0)
    return tell


def test_a_group_at_its_limit_is_pressure_unless_it_is_filled_with_files(group):
    group(3.95)
    assert "1 % of memory left" in MemoryPressure().evidence()
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


# macOS, as Apple documents it: a folder of reports, and a sysctl program on PATH ------------------------------------


@pytest.fixture
def mac(group, tmp_path, monkeypatch):
    """A Mac with memory to spare: its folder of reports, and what its `sysctl` answers."""
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(memory_pressure, "share_left", lambda: 0.5)
    monkeypatch.setattr(memory_pressure, "REPORTS", tmp_path / "reports")
    (tmp_path / "reports").mkdir()

    def answers(level: str) -> None:
        program = tmp_path / "sysctl"
        program.write_text(f'#!/bin/sh\n[ "$*" = "-n kern.memorystatus_vm_pressure_level" ] && echo "{level}"\n')
        program.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    answers("1")
    return answers


def write_report(folder: Path, name: str, seconds_ago: float = 0.0) -> None:
    report = folder / name
    report.write_text('{"bug_type":"298"}')
    moment = report.stat().st_mtime + 1 - seconds_ago
    os.utime(report, (moment, moment))


def test_a_report_that_macos_wrote_since_the_watch_began_counts(mac, tmp_path):
    write_report(tmp_path / "reports", "JetsamEvent-2026-11-20-101500.ips", seconds_ago=3600)
    pressure = MemoryPressure()
    assert pressure.evidence() == ""
    write_report(tmp_path / "reports", "python3-2026-11-20-235012.ips")  # of a crash, not of memory
    assert pressure.evidence() == ""
    write_report(tmp_path / "reports", "JetsamEvent-2026-11-20-235012.ips")
    assert "(JetsamEvent-2026-11-20-235012.ips)" in pressure.evidence()


@pytest.mark.parametrize("level, counts", [("1", False), ("2", False), ("4", True)])
def test_only_critical_pressure_counts_on_macos(mac, level, counts):
    mac(level)
    assert ("critical" in MemoryPressure().evidence()) is counts


def test_a_mac_that_shows_nothing_gives_no_evidence(mac, tmp_path, monkeypatch):
    monkeypatch.setattr(memory_pressure, "REPORTS", tmp_path / "nowhere")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert MemoryPressure().evidence() == ""


def test_another_system_is_not_asked_as_macos_is(mac, monkeypatch):
    mac("4")
    monkeypatch.setattr(sys, "platform", "linux")
    assert MemoryPressure().evidence() == ""
