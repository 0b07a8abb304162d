"""One model's training through its failures: what is tried in turn, what is recorded, what the next run begins with."""

import errno
import json
from types import SimpleNamespace

import psutil
import pytest

from flows.context.paths import CHECKOUT
from flows.machine import conditions
from flows.machine.disk import DiskSpace, Unwritable
from flows.planning.site import Site
from flows.supervision import supervisor
from flows.supervision.recovery import DoesNotFit, Recovery
from flows.supervision.supervisor import Ending
from nanogpt import durable
from nanogpt.config import Config, load_config
from nanogpt.faults import UserError
from nanogpt.results.training import TrainingFailure
from nanogpt.training.trainer import train
from nanogpt.units import GIB
from tests.flows.parts import Parts, outcome
from tests.nanogpt.training_case import make_data, tiny

pytestmark = pytest.mark.fast

OUT_OF_MEMORY = Ending("out_of_memory", "DefaultCPUAllocator: can't allocate memory")
KILLED = Ending("killed", "ended by SIGKILL; it printed nothing")
FINISHED = Ending("", "", outcome())


class Case:
    """tiny_model in training, whose trainers end as a script says; the arguments of each are in `asked`.

    Of the script, what is not an Ending: micro-batches to which the trainer halves before it ends.
    """

    def __init__(self, parts: Parts, monkeypatch):
        self.parts, self.monkeypatch = parts, monkeypatch
        self.asked: list[str] = []

    def recovery(self, *script, device: str = "cpu", **options) -> Recovery:
        endings = iter(script)
        self.asked.clear()

        def train(arguments, files, log, watch, **named) -> Ending:
            self.asked.append(" ".join(arguments[arguments.index("--micro-batch") + 1 :]))
            halvings, ending = [], next(endings)
            while not isinstance(ending, Ending):
                halvings, ending = [*halvings, ending], next(endings)
            with open(files.folder / "events.jsonl", "a") as file:
                for micro_batch in halvings:
                    row = {"event": "out_of_memory", "step": 7, "message": "refused", "micro_batch": micro_batch}
                    file.write(json.dumps(row) + "\n")
            return ending

        self.monkeypatch.setattr(supervisor, "train", train)
        return self.parts.recovery(tiny_model(**{"device.type": device}), **options)

    def train(self, *script, **options) -> list[str]:
        """The arguments of every trainer from --micro-batch on, of a training that finishes."""
        assert self.recovery(*script, FINISHED, **options).train() == FINISHED.outcome
        return self.asked

    @property
    def rows(self):
        return self.parts.journal.remedies


@pytest.fixture
def case(tmp_path, monkeypatch) -> Case:
    return Case(Parts(tmp_path), monkeypatch)


def tiny_model(**changes) -> Config:
    config = load_config(CHECKOUT / "configs/tiny_model.yaml", ["training.batch_size=12"])
    return config.with_changes({"data.tokenizer": "char", "device.mixed_precision": False, **changes})


# Memory -----------------------------------------------------------------------------------------------------------


def test_everything_is_tried_in_turn_and_then_it_does_not_fit(case):
    recovery = case.recovery(*[OUT_OF_MEMORY] * 20)
    with pytest.raises(DoesNotFit, match="tiny_model does not fit into memory: DefaultCPUAllocator"):
        recovery.train()
    recomputed = "1 --set device.gradient_checkpointing=true"
    assert case.asked == ["12", "6", "3", "1", recomputed, f"{recomputed} --set device.longest_window=64"]
    assert case.parts.symptoms == ["out_of_memory"] * 5


def test_what_the_trainer_halved_by_itself_is_recorded_and_where_the_next_one_begins(case):
    assert case.train(6, 3, KILLED) == ["12", "3"]
    assert [(row.symptom, row.outcome) for row in case.rows] == [
        ("out_of_memory", "micro-batch 6 on cpu"), ("out_of_memory", "micro-batch 3 on cpu"),
        ("killed", "micro-batch 3 on cpu"),
    ]  # fmt: skip


def test_what_fitted_is_where_the_next_run_begins(case, tmp_path):
    case.train(6, 3, 1, OUT_OF_MEMORY)
    case.parts = Parts(tmp_path, run="second")
    assert case.train() == ["1 --set device.gradient_checkpointing=true"]


def test_a_library_that_dies_where_torch_was_refused_memory_died_of_it(case):
    aborted = Ending("aborted", "ended by SIGSEGV")
    assert case.train(6, aborted, aborted) == ["12", "3", "1"]
    assert "SIGSEGV, after memory had run out in step 7" in case.rows[1].evidence


def test_an_abort_is_none_of_memory_where_it_had_not_run_out(case):
    assert case.train(Ending("aborted", "ended by SIGSEGV")) == ["12", "12"]
    assert case.parts.symptoms == ["aborted"]


def test_kills_without_evidence_never_change_how_it_is_computed(case):
    assert case.train(*[KILLED] * 8) == ["12"] * 9
    assert {row.remedy for row in case.rows} == {"continue from the last checkpoint in a fresh process"}
    with pytest.raises(
        RuntimeError, match=r"killed \(ended by SIGKILL.*no remedy is left after 8; Something on the machine kills"
    ):
        case.recovery(*[KILLED] * 20).train()
    assert case.asked == ["12"] * 9


def test_a_trainer_that_is_killed_before_it_has_made_its_folder_is_started_again(case):
    recovery, endings = case.recovery(), iter([KILLED, FINISHED])
    case.parts.paths.model("tiny_model").rmdir()
    case.monkeypatch.setattr(supervisor, "train", lambda *others, **named: next(endings))
    assert recovery.train() == FINISHED.outcome
    assert case.parts.symptoms == ["killed"]


# Device, data and disk --------------------------------------------------------------------------------------------

GPU = {"device": "mps", "site": Site("mps", 16 * GIB, 65)}
ON_THE_CPU = "12 --set device.type=cpu --set device.mixed_precision=false"


@pytest.mark.parametrize("symptom", ["device", "stall"])
def test_a_device_that_fails_twice_is_given_up_for_the_whole_run(case, symptom):
    assert case.train(*[Ending(symptom, "command buffer")] * 2, **GPU) == ["12", "12", ON_THE_CPU]
    assert case.parts.accelerator.reason_given_up() == "command buffer"
    assert case.train(**GPU) == [ON_THE_CPU]
    assert "tiny_model: on the CPU, because mps was given up (command buffer)" in case.parts.log


def test_numbers_that_diverge_are_the_models_own_fault(case):
    assert case.train(Ending("non_finite", "NaN at 7"), **GPU) == ["12", ON_THE_CPU]
    assert not case.parts.accelerator.reason_given_up()


def test_checkpoints_with_wrong_numbers_are_set_aside(case):
    recovery = case.recovery(Ending("device", "command buffer", trusted=frozenset()), FINISHED, **GPU)
    checkpoint = case.parts.paths.model("tiny_model") / "checkpoints/step-00000020"
    durable.write_json(checkpoint / "manifest.json", {})
    recovery.train()
    assert not checkpoint.exists() and checkpoint.with_name("step-00000020.bad").is_dir()


@pytest.mark.parametrize("symptom", ["user_error", "aborted", "unknown", "corrupt_file", "killed"])
def test_a_training_that_fails_over_rotten_data_continues_with_it_remade(case, symptom):
    remade = []

    def remake() -> list[str]:
        remade.append("char/manifest.json is missing")
        return remade[-1:]

    words = "is not a data folder (it has no manifest.json)"
    assert case.train(Ending(symptom, words), remake_data=remake) == ["12", "12"]
    assert remade and words in case.rows[-1].evidence


def test_a_persons_mistake_is_theirs_where_the_data_is_whole(case):
    with pytest.raises(UserError, match="n_embd: bad"):
        case.recovery(Ending("user_error", "model.n_embd: bad")).train()
    assert not case.rows


def test_a_folder_that_cannot_be_written_ends_everything(case):
    with pytest.raises(Unwritable, match="checkpoints is gone; Mount it again"):
        case.recovery(Ending("read_only", "checkpoints is gone")).train()


def test_a_full_disk_is_waited_for_before_anything_is_written_there(case):
    order = []
    full = Ending("disk_full", "no space", TrainingFailure("disk_full", "no space", needed=10**9))
    recovery = case.recovery(full, FINISHED)
    files = recovery._files
    case.monkeypatch.setattr(DiskSpace, "make_room", lambda space, *named: order.append(named))
    case.monkeypatch.setattr(type(files), "append_event", lambda files, event: order.append(event.event))
    recovery.train()
    assert order == [("training.tiny_model", "no space", files.folder, 10**9), "remedy"]
    assert case.asked == ["12", "12"] and not case.rows  # make_room records it


def test_each_remedy_is_an_event_of_the_model(case):
    case.train(KILLED)
    [event] = (case.parts.paths.model("tiny_model") / "events.jsonl").read_text().splitlines()
    assert json.loads(event)["event"] == "remedy" and "killed: ended by SIGKILL" in json.loads(event)["message"]


def test_a_store_that_cannot_be_written_does_not_end_the_training(case):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    case.monkeypatch.setattr("nanogpt.measure.memory_store.MemoryStore.note_limit", full)
    assert case.train(OUT_OF_MEMORY) == ["12", "6"]
    assert "could not be remembered" in case.parts.log


# Time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spent, planned, given", [(0, 600, 600.0), (3500, 600, 97.0), (3600, 600, 10.0)])
def test_a_model_has_the_time_of_the_plan_and_less_when_time_was_lost(case, spent, planned, given):
    case.parts.clock.take_over(spent)  # of 3600 s
    case.monkeypatch.setattr(supervisor, "train", lambda arguments, *_, **__: case.asked.append(arguments) or FINISHED)
    case.parts.recovery(tiny_model(**{"training.max_seconds": planned}), seconds=planned).train()
    [arguments] = case.asked
    assert float(arguments[arguments.index("--max-seconds") + 1]) == pytest.approx(given, abs=2)


# Real trainers ----------------------------------------------------------------------------------------------------


@pytest.fixture
def real(tmp_path, monkeypatch):
    """A training of 300 steps in real processes: its recovery, and the weights that it has when nothing happens."""
    # A heartbeat comes every second and at each evaluation: else so short a training is over before it is asked.
    config = tiny(max_iters=300, checkpoint_interval=200, eval_interval=30, log_interval=5)
    config = config.with_changes({"data.tokenizer": "char"})
    parts = Parts(tmp_path)
    whole = train(config, make_data(parts.paths.data), tmp_path / "uninterrupted").sha256
    monkeypatch.setattr(conditions, "SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 0.02)
    return parts, parts.recovery(config), whole


def has_come_to(recovery: Recovery, step: int) -> bool:
    beat = recovery._files.heartbeat()
    return beat is not None and beat.step >= step


@pytest.mark.slow
def test_a_training_that_waited_for_power_ends_as_if_it_had_not(real, monkeypatch):
    parts, recovery, whole = real
    looks = []

    def battery():
        """Unplugged at step 20, plugged in at the fourth look at it."""
        low = "low_charge" not in parts.symptoms and len(looks) < 3 and has_come_to(recovery, 20)
        looks.extend([True] * low)
        return SimpleNamespace(percent=10.0, power_plugged=not low, secsleft=0)

    monkeypatch.setattr(psutil, "sensors_battery", battery, raising=False)
    assert recovery.train().sha256 == whole
    # So quick a training may skip a bad step besides, on one processor's rounding and not on another's.
    assert parts.symptoms.count("low_charge") == 1
