"""What is measured and what need not be, how a model is made to fit, and which failures are the model's own."""

import errno
import re
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from flows.cli.command_line import parse
from flows.context.paths import CHECKOUT
from flows.full_run import PHASES
from flows.ledger.facts import TextTokens
from flows.planning import budget_shares, measure, planner
from flows.planning.forecast import Corpus, Speed
from flows.planning.measure import Measurement
from flows.planning.site import Site
from nanogpt.config import Config, load_config
from nanogpt.faults import DEVICE, OUT_OF_MEMORY
from nanogpt.fit import Fit
from nanogpt.process.endings import ABORTED, CRASHED, KILLED, STALL
from nanogpt.process.worker import WorkerDied
from nanogpt.results.speed import FastestMicroBatch, MicroBatchTry
from nanogpt.tokenizers.vocabulary import likely_bytes_per_token
from nanogpt.units import GIB
from nanogpt.weights.reserve import NoRoomError
from tests.flows.parts import Parts
from tests.flows.planning.machines import Failing, Machine, Small

pytestmark = pytest.mark.fast
Usage = namedtuple("Usage", "total used free")
TINY = ["--config", str(CHECKOUT / "configs/tiny_model.yaml")]  # 24 windows of 128 tokens in a step


@pytest.fixture
def parts(tmp_path) -> Parts:
    return Parts(tmp_path)


@pytest.fixture
def measuring(parts, monkeypatch):
    """The measurement that a command line asks for, of a text of so many bytes."""

    def measuring(machine: Machine, *arguments: str, text: int = 10**9, memory: float = 64 * GIB, device: str = "cpu",
                  free_disk: int = 10**15) -> Measurement:  # fmt: skip
        monkeypatch.setattr(measure.shutil, "disk_usage", lambda path: Usage(free_disk, 0, free_disk))
        options = parse(["--workspace", str(parts.paths.workspace), *arguments], PHASES)
        tokenizer = planner.tokenizer_for(options.config.data.tokenizer, text, 65)
        corpus = Corpus(text, text, 65, 0.05, 0.05, likely_bytes_per_token(tokenizer, 1024, 1.0))
        phases = budget_shares.by_experience(options.config.budget, text)
        seconds = budget_shares.training_seconds(options.config.budget, phases)
        site = Site(device, int(memory), 65)
        tokens = TextTokens("a text", tokenizer, options.config.data.bpe_vocab_size)
        return Measurement(options, site, corpus, tokens, seconds, parts.paths.state, machine, parts.limits,
                           parts.journal)  # fmt: skip

    return measuring


def test_on_a_mighty_machine_every_model_is_measured(measuring):
    measured = measuring(Machine(), "--budget", "8h").measure()
    assert list(measured.models) == [
        "micro", "mini_model", "tiny_model", "compact_model", "small_model", "medium_model", "large_model",
    ]  # fmt: skip
    assert measured.unmeasured == {}


def test_what_is_predicted_not_to_fit_is_left_out_unmeasured_with_the_figures(measuring):
    machine = Machine()
    measured = measuring(machine, "--budget", "8h", memory=12 * GIB).measure()
    assert "large_model" not in dict(machine.measured)
    assert list(measured.unmeasured) == ["large_model"]
    reason = r"is predicted to need 1\d\.\d GiB even with one sequence at a time; a training may take 8\.4 GiB"
    assert re.fullmatch(reason, measured.unmeasured["large_model"])


def test_a_model_whose_checkpoints_find_no_room_is_left_out_with_the_figures(measuring):
    measured = measuring(Machine(), "--budget", "8h", free_disk=10 * GIB).measure()
    assert list(measured.models) == ["micro", "mini_model", "tiny_model", "compact_model", "small_model"]
    reason = r"a run with it would write 1\d\.\d GiB more; 10\.0 GiB of the disk are free"
    assert re.fullmatch(reason, measured.unmeasured["medium_model"])


def test_what_the_run_has_written_already_is_not_asked_for_again(measuring):
    measurement = replace(measuring(Machine(), "--budget", "8h", free_disk=10 * GIB), written=9 * GIB)
    assert "medium_model" in measurement.measure().models


def test_a_model_that_the_text_cannot_feed_is_left_out_with_the_figures(measuring):
    measured = measuring(Machine(), "--budget", "8h", text=1_115_394).measure()
    assert list(measured.models) == ["micro", "mini_model", "tiny_model", "compact_model"]
    assert measured.unmeasured["small_model"] == (
        "has 49 parameters for each of the 1,003,854 tokens to learn from; with more than 20 it would learn the text "
        "by heart"
    )


def test_a_slow_machine_measures_no_more_than_can_be_any_good(measuring):
    measured = measuring(Machine(rate=5e10), "--budget", "2m").measure()
    assert list(measured.models) == ["micro"]
    assert all("tokens in" in reason for reason in measured.unmeasured.values()) and len(measured.unmeasured) == 6


@pytest.mark.parametrize("threads, compared", [(2, ["micro"]), (1, ["micro", "tiny_model"])])
def test_what_gains_for_a_small_model_is_not_compared_again_for_a_larger_one(measuring, threads, compared):
    """Half precision and threads; one thread alone may be slower for the larger one."""
    machine = Machine()
    machine.threads = threads
    measured = measuring(machine, "--set", "ladder=[micro, tiny_model]").measure()
    assert machine.compared == compared and list(measured.models) == ["micro", "tiny_model"]


def test_on_mps_each_model_is_compared(measuring):
    machine = Machine()
    measuring(machine, "--set", "ladder=[micro, tiny_model]", device="mps").measure()
    assert machine.compared == ["micro", "tiny_model"]


@pytest.mark.parametrize("error, device, ends", [
    (WorkerDied("ended by SIGKILL", KILLED), "cpu", False),
    (WorkerDied("no answer within 300 s", STALL), "cuda", True),
    (OSError(errno.ENOSPC, "No space left on device"), "cpu", True),
])  # fmt: skip
def test_a_second_measurement_that_fails_costs_a_line_unless_the_device_or_the_disk_fails(
    measuring, parts, error, device, ends
):
    class FailingLater(Machine):
        times = 0

        def rehearse(self, config, device, folder, seconds):
            self.times += 1
            if self.times == 2:
                raise error
            return super().rehearse(config, device, folder, seconds)

    measurement = measuring(FailingLater(), "--set", "ladder=[micro]", device=device)
    if ends:
        with pytest.raises(type(error)):
            measurement.measure()
    else:
        assert list(measurement.measure().models) == ["micro"] and "micro was not measured again" in parts.log


def test_the_memory_of_the_smallest_is_that_of_its_first_measurement(measuring):
    """Of some systems a process can ask for no other peak than that of its whole life, larger models included."""
    peaks, paces = iter([GIB, 9 * GIB, 9 * GIB]), iter([2.0, 1.0, 1.0])

    class Growing(Machine):
        def rehearse(self, config, device, folder, seconds):
            speed = super().rehearse(config, device, folder, seconds)
            pace = speed.seconds_per_step * next(paces)
            return replace(speed, peak_memory_bytes=next(peaks), seconds_per_step=pace)

    models = measuring(Growing(), "--set", "ladder=[micro, tiny_model]").measure().models
    assert models["micro"].peak_memory_bytes == GIB


@pytest.mark.parametrize("start", [3.0, 1.0, 0.5])
def test_the_smallest_is_measured_again_when_the_start_of_the_run_is_over(measuring, start):
    """The pages start meanwhile, or a moment was lucky: the faster of two measurements counts."""
    paces = iter([start, 1.0, 1.0])

    class Starting(Machine):
        def rehearse(self, config, device, folder, seconds):
            speed = super().rehearse(config, device, folder, seconds)
            return replace(speed, seconds_per_step=speed.seconds_per_step * next(paces))

    options = ("--set", "ladder=[micro, tiny_model]")
    usual, found = (measuring(machine, *options).measure().models for machine in (Machine(), Starting()))
    times = {name: found[name].seconds_per_step / usual[name].seconds_per_step for name in usual}
    assert times == {"micro": pytest.approx(min(start, 1.0)), "tiny_model": 1.0}


# Compiling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share, seconds, compiled, why", [
    (0.7, 1000.0, True, "compiled: a step takes .* ms instead of .*, and compiling 20 s; 5 min 00 s of 16 min"),
    (0.7, 100.0, False, "not compiled: .*; 30.0 s of 1 min 40 s would be saved"),  # less than compiling twice
    (0.98, 1e5, False, "not compiled: .* would be saved"),  # no more than measurements differ by
    (1.1, 1e5, False, "not compiled: .*; nothing is saved"),
    (None, 1e5, False, r"not compiled: torch.compile failed here \(backend='inductor' raised:\)"),
])  # fmt: skip
def test_what_is_compiled_gains_more_in_its_training_than_compiling_costs(measuring, share, seconds, compiled, why):
    machine = Machine()
    machine.compiled = share
    measurement = measuring(machine, "--set", "ladder=[micro]", "--budget", "1h")
    assert measurement.may_compile
    [micro] = measurement.measure().models.values()
    tried = measurement.with_compiler(load_config(CHECKOUT / "configs/micro.yaml"), micro, seconds)
    assert tried.compiled is compiled and re.match(why, tried.compiling), tried.compiling
    speed = Speed.of("micro", tried)
    assert speed.seconds_per_step == pytest.approx(micro.seconds_per_step * (share if compiled else 1.0))
    assert speed.compile_seconds == (20.0 if compiled else 0.0)


@pytest.mark.parametrize("arguments", [
    ["--budget", "10m"], ["--budget", "1h", "--set", "device.compile=false"], ["--budget", "1h", *TINY],
])  # fmt: skip
def test_no_try_is_made_in_a_short_budget_or_where_a_person_has_decided(measuring, arguments):
    assert not measuring(Machine(), *arguments).may_compile


# Memory -----------------------------------------------------------------------------------------------------------


def test_what_has_no_memory_is_measured_in_smaller_micro_batches_of_the_same_step(measuring, parts):
    machine = Machine(most=5)
    [micro] = measuring(machine, "--set", "ladder=[micro]").measure().models.values()
    assert machine.measured == [("micro", 24), ("micro", 12), ("micro", 6), ("micro", 3)]
    assert (micro.batch_size, micro.gradient_accumulation) == (3, 8)
    assert "micro: out of memory with micro-batch 24; now micro-batch 12" in parts.log


@pytest.mark.parametrize("tokens, recomputes, fits", [
    (640, False, (3, 128)), (128, False, (1, 128)), (128, True, (1, 128)), (64, True, (1, 64)),
])  # fmt: skip
def test_what_has_no_memory_is_recomputed_and_then_cut_into_windows(measuring, tokens, recomputes, fits):
    machine = Small(tokens, recomputes)
    [tiny] = measuring(machine, *TINY).measure().models.values()
    assert machine.fitted == [("tiny_model", *fits)]
    assert (tiny.batch_size, tiny.longest_window or 128) == fits
    assert tiny.batch_size * tiny.gradient_accumulation == 24
    assert tiny.gradient_checkpointing is (tokens <= 64 or recomputes)


def test_only_the_smallest_is_cut_into_windows_a_larger_one_is_left_out(measuring):
    measured = measuring(Small(64), "--budget", "8h", "--set", "ladder=[micro, tiny_model]").measure()
    assert list(measured.models) == ["micro"] and "cannot be trained here" in measured.unmeasured["tiny_model"]


@pytest.mark.parametrize("memory, name", [(0.85 * GIB, "tiny_shakespeare"), (0.7 * GIB, "tiny_model")])
def test_where_the_model_asked_for_will_not_fit_a_smaller_one_takes_its_place(measuring, parts, memory, name):
    machine = Machine()
    machine.peak = GIB // 4
    small = str(CHECKOUT / "configs/small_model.yaml")
    measured = measuring(machine, "--config", small, memory=memory).measure()
    assert list(measured.models) == [name]
    [row] = parts.journal.remedies
    assert (row.symptom, row.remedy, row.outcome) == ("out_of_memory", "the next smaller model", name)
    assert re.search(r"small_model is predicted to need \d\.\d GiB even with one sequence", row.evidence)


def test_where_not_even_the_smallest_fits_the_reasons_are_named(measuring):
    with pytest.raises(MemoryError, match=r"no model fits into memory: tiny_model cannot .*; micro cannot be trained"):
        measuring(Small(8), *TINY).measure()


def test_the_next_run_begins_with_what_fitted(measuring, parts):
    machine = Small(10**6)
    measurement = measuring(machine, *TINY)
    fit = Fit(micro_batch=5, gradient_checkpointing=True)
    parts.limits.note(resolved("tiny_model"), measurement.site, fit, "killed")
    [tiny] = measurement.measure().models.values()
    assert machine.fitted == [("tiny_model", 3, 128)]  # what divides the step's 24
    assert (tiny.batch_size, tiny.gradient_checkpointing) == (3, True)


def test_what_is_larger_than_what_did_not_fit_is_not_tried(measuring, parts):
    measurement = measuring(Machine(), "--budget", "8h", "--set", "ladder=[micro, tiny_model, small_model]")
    parts.limits.note(resolved("tiny_model"), measurement.site, None, "killed")
    measured = measurement.measure()
    assert list(measured.models) == ["micro"]
    assert measured.unmeasured["tiny_model"].startswith("did not fit into memory on")
    words = "is larger than tiny_model, which did not fit into memory on"
    assert measured.unmeasured["small_model"].startswith(words)


# Only a lack of memory makes a model smaller ----------------------------------------------------------------------

NOT_OF_MEMORY = [
    WorkerDied("ended by SIGKILL", KILLED), WorkerDied("ended by SIGTERM", KILLED),
    WorkerDied("ended by SIGSEGV", ABORTED), WorkerDied("ended by SIGBUS", ABORTED), WorkerDied("code 1", CRASHED),
    OSError(errno.ENOSPC, "No space left on device"), NoRoomError(Path("/"), 1 << 40, free=0),
    OSError(errno.EROFS, "Read-only file system"),
]  # fmt: skip


@pytest.mark.parametrize("model", ["micro", "tiny_model"])
@pytest.mark.parametrize("error", NOT_OF_MEMORY, ids=str)
def test_what_is_no_lack_of_memory_ends_the_measurement_and_changes_nothing(measuring, model, error):
    machine = Failing(error, model=model)
    measurement = measuring(machine, "--set", "ladder=[micro, tiny_model]")
    with pytest.raises(type(error)) as raised:
        measurement.measure()
    assert raised.value is error
    again = measurement.measure()  # as Worker, StepRunner and DiskSpace do: with nothing remembered of it
    assert again == measuring(Machine(), "--set", "ladder=[micro, tiny_model]").measure()
    assert set(machine.measured) == {("micro", 24), ("tiny_model", 24)}


@pytest.mark.parametrize("error", [
    MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    WorkerDied("killed with 1 % of memory left", OUT_OF_MEMORY),
], ids=str)  # fmt: skip
def test_every_sign_of_a_lack_of_memory_makes_it_smaller(measuring, error):
    machine = Failing(error)
    [micro] = measuring(machine, "--set", "ladder=[micro]").measure().models.values()
    assert machine.measured == [("micro", 24), ("micro", 12)] and micro.batch_size == 12


def test_a_model_too_slow_to_be_measured_is_left_out_unless_it_is_the_only_one(measuring):
    slow = WorkerDied("no answer within 300 s", STALL)
    measured = measuring(Failing(slow, model="tiny_model"), "--set", "ladder=[micro, tiny_model]").measure()
    assert list(measured.models) == ["micro"] and "no answer within 300 s" in measured.unmeasured["tiny_model"]
    with pytest.raises(WorkerDied, match="no answer"):
        measuring(Failing(slow), "--set", "ladder=[micro, tiny_model]").measure()


@pytest.mark.parametrize("error", [
    WorkerDied("no answer within 300 s", STALL), WorkerDied("ended by SIGABRT", DEVICE),
    RuntimeError("MPSGraph does not support this"),
], ids=str)  # fmt: skip
def test_an_accelerator_that_fails_is_no_fault_of_the_model(measuring, error):
    machine = Failing(error, error, model="tiny_model")
    measurement = measuring(machine, "--set", "ladder=[micro, tiny_model]", device="mps")
    with pytest.raises(type(error)):
        measurement.measure()


def test_a_way_that_aborts_on_mps_leaves_float32_there(measuring, parts):
    measured = measuring(Failing(WorkerDied("ended by SIGABRT", DEVICE)), "--set", "ladder=[micro]", device="mps")
    assert list(measured.measure().models) == ["micro"]
    assert parts.journal.remedies[-1].remedy == "time float32 alone"


# The fastest micro-batch ------------------------------------------------------------------------------------------


def medium(measuring, machine: Machine):
    """A long run of medium_model alone: the measurement, and what was measured of it."""
    measurement = measuring(machine, "--budget", "8h", "--set", "ladder=[medium_model]")
    assert measurement.may_split_otherwise
    return measurement, measurement.measure().models["medium_model"]


def test_the_fastest_micro_batch_that_divides_the_step_is_taken(measuring):
    machine = Machine(fastest=2)
    measurement, measured = medium(measuring, machine)
    faster = measurement.faster_micro_batch(resolved("medium_model"), measured)
    assert (measured.batch_size, faster.batch_size, faster.gradient_accumulation) == (8, 2, 8)
    assert machine.searched == [("medium_model", 60.0)]


@pytest.mark.parametrize("found, tokens_per_second, measured_again", [
    (4, 1e12, [("medium_model", 4)]),  # the search was wrong: it is no faster when it is rehearsed
    (1, 1.0, []), (8, 1e12, []),
])  # fmt: skip
def test_a_micro_batch_that_is_no_faster_is_not_taken(measuring, monkeypatch, found, tokens_per_second, measured_again):
    machine = Machine()
    measurement, measured = medium(measuring, machine)
    answer = FastestMicroBatch(
        found, tokens_per_second, GIB, [MicroBatchTry(found, "fits", tokens_per_second=tokens_per_second)], False
    )
    monkeypatch.setattr(machine, "find_for", lambda config, folder, seconds: answer)
    assert measurement.faster_micro_batch(resolved("medium_model"), measured) is measured
    assert machine.measured == [("medium_model", 8), *measured_again]


@pytest.mark.parametrize("error", [
    MemoryError(), WorkerDied("killed with 1 % of memory left", OUT_OF_MEMORY), WorkerDied("no answer", STALL),
    RuntimeError("odd"),
], ids=str)  # fmt: skip
def test_a_search_that_fails_leaves_the_micro_batch(measuring, parts, error):
    measurement, measured = medium(measuring, Failing(error, model="the search"))
    assert measurement.faster_micro_batch(resolved("medium_model"), measured) is measured
    assert "medium_model: the micro-batch stays 8" in parts.log


@pytest.mark.parametrize("error", NOT_OF_MEMORY, ids=str)
def test_a_search_that_something_else_ended_is_made_again(measuring, error):
    measurement, measured = medium(measuring, Failing(error, model="the search"))
    with pytest.raises(type(error)):
        measurement.faster_micro_batch(resolved("medium_model"), measured)


@pytest.mark.parametrize("arguments", [
    ["--budget", "10m"], ["--budget", "8h", "--config", str(CHECKOUT / "configs/micro.yaml")],
    ["--budget", "8h", "--set", "training.batch_size=6"],
])  # fmt: skip
def test_a_short_run_and_a_step_as_a_person_wrote_it_are_not_searched_for(measuring, arguments):
    assert not measuring(Machine(), *arguments).may_split_otherwise


def resolved(name: str) -> Config:
    """As the plan writes it for a large text on the CPU."""
    config = load_config(CHECKOUT / f"configs/{name}.yaml")
    return config.with_changes({"data.tokenizer": "bpe", "device.type": "cpu", "device.mixed_precision": True})
