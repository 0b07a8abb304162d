"""A step's gradient: the same whatever is computed again, compiled, split or cut into shorter windows."""

import errno
import os
import signal
import time
import weakref
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch._inductor.exc
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.config import Config
from nanogpt.data.data_loader import Samples
from nanogpt.faults import (
    OUT_OF_MEMORY,
    CorruptFileError,
    DeviceError,
    FolderLostError,
    NonFiniteError,
    classify,
)
from nanogpt.model import recomputing
from nanogpt.model.gpt import GPT
from nanogpt.training.micro_batches import Feed, MicroBatches
from nanogpt.training.numerics import Numerics
from nanogpt.training.progress import Progress
from nanogpt.training.retries import OutOfMemory, is_of_compiler
from nanogpt.training.state import TrainingState
from nanogpt.training.step import Stepper
from nanogpt.training.stopping import OutOfTime, StopRequest, StopRequested
from nanogpt.training.update.growth import StepData
from nanogpt.training.update.optimizer import Optimizer
from tests.nanogpt.training_case import assert_equal_states, through_a_file

pytestmark = pytest.mark.fast

NUMERICS = Numerics("cpu", "float32", "float32", 1, torch.__version__, np.__version__)


class Events:
    """A recorder that keeps (name, message) of each event."""

    def __init__(self):
        self.rows = []

    def beat(self, activity):
        pass

    def event(self, name, message, **facts):
        self.rows.append((name, message))


def stepper(
    micro_batch: int = 4, precision: str = "float32", context: int | None = None, compiled: bool = False, **model
) -> Stepper:
    shape = dict(n_layer=2, n_head=2, n_embd=16, block_size=8, vocab_size=50, dropout=0.2, zero_init=False)
    config = Config(model=shape | model, training=dict(optimizer="adamw"), device=dict(compile=compiled))
    gpt = GPT(config.model, seed=1).train()
    state = TrainingState(gpt, Optimizer(gpt, config.training), None, Progress(), "cpu")
    tokens = np.random.default_rng(0).integers(0, 50, 500).astype(np.uint16)
    micro_batches = MicroBatches(Samples(tokens, 8, 0), "cpu", micro_batch, context or 8, StopRequest())
    return Stepper(config, replace(NUMERICS, precision=precision), state, micro_batches, lambda: None, Events())


def passes(of: Stepper, data: StepData, scale: float = 1.0) -> tuple[float, float]:
    return of.retries.complete(data, lambda: of.forward_backward(data, scale))


def computed(of: Stepper, data: StepData, scale: float = 1.0) -> tuple[float, float, list[torch.Tensor]]:
    torch.manual_seed(7)
    loss, norm = passes(of, data, scale)
    return loss, norm, [parameter.grad.clone() for parameter in of.state.optimizer.parameters]


def assert_equal(one, other) -> None:
    assert one[:2] == other[:2]
    assert all(torch.equal(a, b) for a, b in zip(one[2], other[2], strict=True))


WHOLE = StepData(cursor=3, batch=4, window=8)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_blocks_computed_again_give_the_same_bytes_with_dropout(precision):
    kept, again = stepper(2, precision), stepper(2, precision)
    again.state.model.gradient_checkpointing = True
    assert_equal(computed(kept, WHOLE), computed(again, WHOLE))


def test_dropout_is_repeated_where_torch_does_not_see_to_it(monkeypatch):
    """MPS has a generator of its own; the CPU's stands for it here."""
    monkeypatch.setattr(torch.mps, "get_rng_state", torch.get_rng_state)
    monkeypatch.setattr(torch.mps, "set_rng_state", torch.set_rng_state)
    monkeypatch.setattr(recomputing, "generator_of", lambda device: torch.mps)
    weight = torch.ones(1000, requires_grad=True)

    def dropped(x):
        return torch.nn.functional.dropout(x.exp())

    written = recomputing.recomputed(dropped, weight, torch.nn.Identity(), draws=True)
    after = torch.get_rng_state()
    written.sum().backward()
    assert torch.equal(weight.grad, written.detach())  # exp is its own derivative, under the same mask
    assert torch.equal(torch.get_rng_state(), after)


def test_blocks_computed_again_are_not_kept():
    """What autograd holds on to between forward and backward, weights aside."""
    sizes = []
    for recompute in (False, True):
        of = stepper()
        of.state.model.gradient_checkpointing = recompute
        weights = {weight.data_ptr() for weight in of.state.model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(Held, Held.value):
            loss = of.loss_sum(torch.zeros(4, 8, dtype=torch.long), torch.zeros(4, 8, dtype=torch.long))
        sizes.append(sum(of.tensor.numel() for of in Held.alive if of.tensor.data_ptr() not in weights))
        del loss
    assert sizes[1] < 0.4 * sizes[0]


def test_a_part_that_has_no_share_in_what_is_computed_again_has_no_gradient():
    """In a block of one's own, say; the others have theirs."""
    used, unused, x = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3), torch.ones(2, 3)
    recomputing.recomputed(used, x, torch.nn.ModuleList([used, unused]), draws=False).sum().backward()
    assert torch.equal(used.weight.grad, torch.full((3, 3), 2.0)) and unused.weight.grad is None


class Held:
    """A tensor that a graph has saved, for as long as the graph lives."""

    alive: ClassVar[weakref.WeakSet] = weakref.WeakSet()

    def __init__(self, tensor):
        self.tensor = tensor.detach()  # without its graph, which would hold this
        self.alive.add(self)

    def value(self):
        return self.tensor


def test_shorter_windows_see_the_same_tokens():
    of, seen = stepper(dropout=0.0), []
    of.loss_sum.function = lambda tokens, targets: (
        seen.append((tokens, targets)) or of.state.model.loss_sum(tokens, targets)
    )
    computed(of, WHOLE)
    computed(of, StepData(3, 4, window=2))
    (whole, targets), (pieces, piece_targets) = seen
    assert pieces.shape == (16, 2) and torch.equal(whole.flatten(), pieces.flatten())
    assert torch.equal(targets.flatten(), piece_targets.flatten())


def test_a_scaled_loss_scales_the_gradients_exactly_and_no_figure():
    plain, scaled = computed(stepper(2), WHOLE), computed(stepper(2), WHOLE, scale=1024.0)
    assert plain[:2] == scaled[:2]
    assert all(torch.equal(1024 * a, b) for a, b in zip(plain[2], scaled[2], strict=True))


class Compiler:
    """Stands for torch.compile: fails at the call of the given number, by half done work and an exception."""

    def __init__(self, fails_at: int, error: Exception | None = None):
        self.fails_at, self.calls, self.error = fails_at, 0, error or RuntimeError("no C++ compiler")

    def __call__(self, function, **options):
        def compiled(tokens, targets):
            self.calls += 1
            if self.calls == self.fails_at:
                torch.rand(10)  # dropout's generator has moved on
                raise self.error
            return function(tokens, targets)

        return compiled


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4])
def test_a_compiler_that_fails_at_any_call_is_left_and_the_step_repeated(monkeypatch, fails_at):
    expected = [computed(stepper(2), step) for step in (WHOLE, StepData(7, 4, window=2))]
    compiler = Compiler(fails_at)
    monkeypatch.setattr(torch, "compile", compiler)
    of = stepper(2, compiled=True)
    for step, wanted in zip((WHOLE, StepData(7, 4, window=2)), expected, strict=True):
        assert_equal(computed(of, step), wanted)
    assert of.record.rows == [("not compiled", "eager instead: RuntimeError: no C++ compiler")]
    assert compiler.calls == fails_at and not of.loss_sum.is_compiled


def test_out_of_memory_is_no_failure_of_the_compiler(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    of = stepper(compiled=True)
    of.loss_sum.function = Memory(of, tokens=16)
    computed(of, WHOLE)
    assert of.loss_sum.is_compiled and of.micro_batches.size == 2


NOT_THE_COMPILERS = [
    RuntimeError("CUDA error: an illegal memory access was encountered"), DeviceError("mps does not compute it"),
    OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error"), FolderLostError("x"),
    NonFiniteError("NaN"), CorruptFileError("train.bin"),
]  # fmt: skip


@pytest.mark.parametrize("error", NOT_THE_COMPILERS, ids=str)
def test_a_fault_of_something_else_does_not_leave_the_compiler(monkeypatch, error):
    monkeypatch.setattr(torch, "compile", Compiler(2, error))
    of = stepper(2, compiled=True)
    with pytest.raises(type(error)) as raised:
        passes(of, WHOLE)
    assert raised.value is error and of.loss_sum.is_compiled and not of.record.rows


def test_a_cache_of_the_compiler_that_has_no_room_leaves_the_compiler(monkeypatch):
    """So it was met under RLIMIT_FSIZE: InductorError, caused by OSError 27."""
    error = torch._inductor.exc.InductorError(OSError(errno.EFBIG, "File too large"), None)
    error.__cause__ = OSError(errno.EFBIG, "File too large")
    monkeypatch.setattr(torch, "compile", Compiler(2, error))
    of = stepper(2, compiled=True)
    passes(of, WHOLE)
    assert not of.loss_sum.is_compiled


@pytest.mark.fast
def test_causes_that_go_round_in_a_circle_come_to_an_end():
    first, second = OSError(errno.ENOSPC, "full"), ValueError("of the first")
    first.__cause__, second.__cause__ = second, first
    assert not is_of_compiler(first)


class Memory:
    """A loss with memory for so many tokens at once: beyond them torch's own words, with work half done."""

    def __init__(self, of: Stepper, tokens: int):
        self.real, self.tokens, self.held = of.state.model.loss_sum, tokens, []

    def __call__(self, tokens, targets):
        assert not [held for held in self.held if held() is not None]  # what has failed is no longer in memory
        summed, count = self.real(tokens, targets)
        if tokens.numel() > self.tokens:
            self.held += [weakref.ref(tokens), weakref.ref(summed)]
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ...")
        return summed, count


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.0, 0.3]))
def test_where_memory_runs_out_the_step_is_that_of_the_halved_micro_batch(batch, micro_batch, fitting, dropout):
    step, of = StepData(5, batch, window=8), stepper(micro_batch, dropout=dropout)
    of.loss_sum.function = Memory(of, tokens=8 * fitting)
    found = computed(of, step)
    assert of.micro_batches.size <= micro_batch and (
        of.micro_batches.size == micro_batch or min(batch, micro_batch) > fitting
    )
    assert_equal(found, computed(stepper(of.micro_batches.size, dropout=dropout), step))
    whole = computed(stepper(batch, dropout=0.0), step)
    if not dropout:
        assert found[:2] == pytest.approx(whole[:2], rel=1e-5)
    of.record.rows.clear()
    assert_equal(computed(of, step), found)  # it stays so
    assert not of.record.rows


def test_a_halving_is_reported_with_its_evidence():
    of = stepper(4)
    of.loss_sum.function = Memory(of, tokens=8)
    computed(of, WHOLE)
    assert [name for name, _ in of.record.rows] == ["out_of_memory"] * 2
    assert of.record.rows[0][1].startswith(
        "micro-batch 4 -> 2: RuntimeError: [enforce fail] DefaultCPUAllocator: can't alloc"
    )
    assert of.record.rows[1][1].startswith("micro-batch 2 -> 1: ")


@pytest.mark.parametrize(("device", "micro_batch"), [("cpu", 1), ("mps", 4)])
def test_what_cannot_be_halved_here_is_left_as_it_was_before_the_step(monkeypatch, device, micro_batch):
    """One window at a time is the least; on MPS a pass of another size gives wrong gradients in the same process."""
    monkeypatch.setattr(torch.mps, "get_rng_state", torch.get_rng_state)
    monkeypatch.setattr(torch.mps, "set_rng_state", torch.set_rng_state)
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: None)
    of = stepper(micro_batch)
    of.loss_sum.function = Memory(of, tokens=7)
    of.retries.device = device
    before = torch.get_rng_state()
    with pytest.raises(OutOfMemory, match=f"micro-batch {micro_batch}: RuntimeError: .*can't allocate") as error:
        passes(of, WHOLE)
    assert classify(error.value) == OUT_OF_MEMORY and error.value.__context__ is None
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in of.state.optimizer.parameters) and not of.record.rows


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]))
def test_windows_are_passed_one_by_one_where_they_are_shorter_than_a_sequence(batch, micro_batch, context, first):
    step, seen = StepData(5, batch, window=min(context, first)), []
    of = stepper(micro_batch, context=context, dropout=0.0)
    of.loss_sum.function = lambda tokens, targets: seen.append(tokens) or of.state.model.loss_sum(tokens, targets)
    loss, norm, _ = computed(of, step)
    assert max(tokens.numel() for tokens in seen) <= micro_batch * context
    assert {tokens.size(1) for tokens in seen} == {step.window}
    assert torch.equal(torch.cat(seen).flatten(), of.micro_batches.feed.samples.batch(5, batch)[0].flatten())
    assert (loss, norm) == pytest.approx(computed(stepper(batch, dropout=0.0), step)[:2], rel=1e-5)


def test_a_failure_without_a_compiler_is_a_failure():
    of = stepper()
    of.loss_sum.function = Compiler(1)(of.state.model.loss_sum)
    with pytest.raises(RuntimeError, match="no C"):
        passes(of, WHOLE)
    assert not of.record.rows


def test_the_next_piece_is_taken_where_it_was_foreseen_and_read_where_not():
    samples = stepper().micro_batches.feed.samples
    feed = Feed(samples, "meta")  # a device that is not the CPU: what is taken has been sent there
    loads = []
    feed._load = lambda piece: loads.append(piece) or samples.batch(*piece)
    feed.prefetch((0, 2))
    assert torch.equal(feed.take((0, 2))[0], samples.batch(0, 2)[0]) and loads == [(0, 2)]
    feed.prefetch((2, 2))
    assert torch.equal(feed.take((9, 2))[0], samples.batch(9, 2)[0]) and loads == [(0, 2), (2, 2), (9, 2)]


# A step that is not finished -------------------------------------------------------------------------------------


def test_a_step_of_a_million_million_pieces_is_made_piece_by_piece():
    pieces = StepData(7, 10**12, window=8).pieces(1)
    assert [next(pieces), next(pieces)] == [(7, 1), (8, 1)]
    batches = stepper(1).micro_batches.of(StepData(7, 10**12, window=8))
    assert [tuple(next(batches)[0].shape) for _ in range(3)] == [(1, 8)] * 3


@pytest.mark.parametrize("error", [StopRequested, OutOfTime])
def test_a_step_that_is_dropped_leaves_everything_as_before(error):
    of, passed = stepper(1), []

    def interrupt():
        passed.append(1)
        if len(passed) == 3:
            raise error

    of.interrupt = interrupt
    torch.manual_seed(7)
    before = through_a_file(of.state.state_dict())
    with pytest.raises(error):
        of.take()
    assert len(passed) == 3
    assert_equal_states(through_a_file(of.state.state_dict()), before)
    assert all(parameter.grad is None for parameter in of.state.optimizer.parameters)


def test_a_request_to_stop_ends_a_batch_that_is_being_made():
    of, stop = stepper(1), StopRequest()
    of.micro_batches.feed.stop = stop
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    stop.listen()

    def gather(first, count):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        pytest.fail("it was made")

    of.micro_batches.feed.samples.batch = gather
    try:
        with pytest.raises(StopRequested):
            of.take()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert of.state.progress.step == 0
