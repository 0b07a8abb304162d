"""Phase 1: a disk that is full for now or too small, and a device that does not survive its proof."""

import errno
from types import SimpleNamespace

import pytest

from flows.full_run import PHASES
from flows.machine import disk
from flows.phases import environment
from nanogpt.process.worker import WorkerDied
from tests.flows.parts import StandInWorker, assembled, finish_system, proof

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("free, words", [
    (disk.LEAST - 1, "No space left"), (disk.LEAST, r"disk: found 1\.0 MiB, needed"),
])  # fmt: skip
def test_a_full_disk_is_waited_for_and_a_small_one_refused(tmp_path, monkeypatch, free, words):
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises((OSError, RuntimeError), match=words) as refused:
        environment.check_system(assembled(tmp_path, PHASES))
    assert (getattr(refused.value, "errno", None) == errno.ENOSPC) == (free < disk.LEAST)


@pytest.mark.parametrize(("ladder", "level"), [("[micro]", "ok"), ("[micro, large_model]", "warn")])
def test_400_mb_of_disk_are_enough_for_a_small_model(tmp_path, monkeypatch, ladder, level):
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: SimpleNamespace(free=400 * 10**6))
    facts = environment.check_system(assembled(tmp_path, PHASES, None, "--set", f"ladder={ladder}")).facts
    assert [check.level for check in facts.checks if check.name == "disk"] == [level]


def test_a_larger_text_needs_more_disk(tmp_path, monkeypatch):
    text = tmp_path / "own.txt"
    text.write_bytes(b"word " * (10 << 20))
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    run = assembled(tmp_path / "w", PHASES, None, "--set", "ladder=[micro]", "--data", str(text))
    facts = environment.check_system(run).facts
    assert facts.disk_needed_bytes > 5 * text.stat().st_size


def test_a_proof_that_kills_its_process_proves_the_cpu_alone_and_a_new_proof_forgives(tmp_path):
    def answer(name, arguments):
        if arguments["asked"] != "cpu":
            raise WorkerDied("ended by SIGABRT; failed assertion", "device")
        return proof("cpu")

    run = assembled(tmp_path, PHASES, StandInWorker(answer))
    finish_system(run)
    facts = environment.check_device(run).facts
    assert facts.device == "cpu" and facts.asked == "auto" and "failed assertion" in facts.warning
    assert facts.candidates[0].works is False
    assert run.worker.asked == ["auto", "auto", "cpu"]
    environment.check_device(run)
    assert run.worker.asked[3:] == ["auto", "auto", "cpu"]
