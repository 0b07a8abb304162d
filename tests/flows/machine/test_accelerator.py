"""An accelerator that fails outside training: once more, then the CPU, for good, and a person reads of each time."""

import pytest

from flows.machine.accelerator import CPU, ONCE_MORE
from nanogpt import durable
from nanogpt.process.worker import WorkerDied
from tests.flows.parts import Parts

pytestmark = pytest.mark.fast
ASSERTION = "ended by SIGABRT; failed assertion `commit an already committed command buffer'"


@pytest.fixture
def parts(tmp_path) -> Parts:
    return Parts(tmp_path)


def failing(error: Exception, times: int = 100):
    """Work that raises `error` on anything but the CPU, the first `times` times; and for which devices it was asked."""
    asked = []

    def work(device: str) -> str:
        asked.append(device)
        if device != "cpu" and len(asked) <= times:
            raise error
        return f"done on {device}"

    return work, asked


@pytest.mark.parametrize(
    "error",
    [WorkerDied(ASSERTION, "device"), WorkerDied("no answer within 180 s", "stall"),
     NotImplementedError("not for the MPS device"), TypeError("Cannot convert a MPS Tensor to float64")],
)  # fmt: skip
def test_what_fails_twice_is_left_for_the_cpu_in_this_session_and_the_next(parts, error):
    work, asked = failing(error)
    assert parts.accelerator.run_on("mps", "implementation.checks", work) == "done on cpu"
    assert asked == ["mps", "mps", "cpu"] and parts.worker.killed == 2
    assert [row.remedy for row in parts.journal.remedies] == [ONCE_MORE, CPU]
    assert all(str(error) in row.evidence and row.symptom == "device" for row in parts.journal.remedies)
    assert parts.log.count(str(error)) == 2 and CPU in parts.log
    again = Parts(parts.paths.workspace)
    assert again.accelerator.run_on("mps", "implementation.checks", work) == "done on cpu"
    assert asked[3:] == ["cpu"] and not again.journal.remedies


def test_what_fails_once_stays_on_the_accelerator(parts):
    work, asked = failing(WorkerDied(ASSERTION, "device"), times=1)
    assert parts.accelerator.run_on("mps", "implementation.checks", work) == "done on mps"
    assert asked == ["mps", "mps"] and not parts.accelerator.reason_given_up()
    assert parts.accelerator.current("mps") == "mps"


def test_a_lack_of_memory_is_no_fault_of_the_device(parts):
    work, asked = failing(RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GB)"))
    assert parts.accelerator.run_on("mps", "evaluation.models", work) == "done on cpu"
    assert asked == ["mps", "cpu"] and parts.symptoms == ["out_of_memory"]
    assert parts.accelerator.current("mps") == "mps"


def test_a_full_disk_is_no_fault_of_the_device(parts):
    work, asked = failing(OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space"):
        parts.accelerator.run_on("mps", "configuration.measure", work)
    assert asked == ["mps"] and not parts.journal.remedies


def test_a_line_on_stderr_alone_means_that_the_numbers_are_wrong(parts):
    work, asked = failing(WorkerDied(ASSERTION, "device"), times=0)
    parts.worker.words = "Warning: something\nError: command buffer exited with error status.\n\tThe Metal ..."
    assert parts.accelerator.run_on("mps", "evaluation.models", work) == "done on cpu"
    assert asked == ["mps", "mps", "cpu"]
    assert "command buffer exited with error status" in parts.journal.remedies[0].evidence


def test_the_cpu_has_nothing_to_fall_back_on(parts):
    def work(device):
        raise WorkerDied("its process died", "aborted")

    with pytest.raises(WorkerDied):
        parts.accelerator.run_on("cpu", "implementation.checks", work)
    assert not parts.journal.remedies


def test_a_rotten_note_still_means_the_cpu(parts):
    durable.write_text(parts.paths.state / "device.json", "{")
    assert parts.accelerator.current("mps") == "cpu"
