"""A step's gradient: the same whatever is computed again, compiled, split or cut into shorter windows."""

import errno
import weakref

import numpy as np
import pytest
import torch
import torch._inductor.exc
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.data.data_loader import Samples
from nanogpt.faults import (
    OUT_OF_MEMORY,
    CorruptFileError,
    DeviceError,
    FolderLostError,
    NonFiniteError,
    classify,
)
from nanogpt.model.gpt import GPT, mps_dropout_again
from nanogpt.training.compute import Computing
from nanogpt.training.gradients import Feed, Gradients, OutOfMemory, StepData, is_of_compiler
from nanogpt.training.stopping import StopRequest
from nanogpt.training.update.optimizer import Optimizer

pytestmark = pytest.mark.fast

COMPUTING = Computing("cpu", "float32", "float32", 1, torch.__version__, np.__version__)
EVENTS: list[tuple[str, str]] = []


@pytest.fixture(autouse=True)
def no_events():
    EVENTS.clear()


def gradients(micro_batch: int = 4, precision: str = "float32", context: int | None = None, **model) -> Gradients:
    shape = dict(n_layer=2, n_head=2, n_embd=16, block_size=8, vocab_size=50, dropout=0.2, zero_init=False)
    gpt = GPT(ModelConfig(**(shape | model)), seed=1).train()
    optimizer = Optimizer(gpt, TrainingConfig(optimizer="adamw"))
    tokens = np.random.default_rng(0).integers(0, 50, 500).astype(np.uint16)
    computing = Computing(**{**COMPUTING.__dict__, "precision": precision})
    return Gradients(gpt, optimizer, Samples(tokens, 8, 0), computing, micro_batch, StopRequest(), lambda what: None,
                     lambda name, message, **facts: EVENTS.append((name, message)), context)  # fmt: skip


def computed(of: Gradients, data: StepData, scale: float = 1.0) -> tuple[float, float, list[torch.Tensor]]:
    torch.manual_seed(7)
    loss, norm = of.compute(data, scale)
    return loss, norm, [parameter.grad.clone() for parameter in of.optimizer.parameters]


def assert_equal(one, other) -> None:
    assert one[:2] == other[:2]
    assert all(torch.equal(a, b) for a, b in zip(one[2], other[2], strict=True))


WHOLE = StepData(cursor=3, batch=4, window=8)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_blocks_computed_again_give_the_same_bytes_with_dropout(precision):
    kept, again = gradients(2, precision), gradients(2, precision)
    again.model.gradient_checkpointing = True
    assert_equal(computed(kept, WHOLE), computed(again, WHOLE))


def test_dropout_is_repeated_where_torch_does_not_see_to_it(monkeypatch):
    """MPS has a generator that torch's checkpoint does not keep; the CPU's stands for it here."""
    monkeypatch.setattr(torch.mps, "get_rng_state", torch.get_rng_state)
    monkeypatch.setattr(torch.mps, "set_rng_state", torch.set_rng_state)
    weight = torch.ones(1000, requires_grad=True)

    def dropped(x):
        return torch.nn.functional.dropout(x.exp())

    options = dict(use_reentrant=False, preserve_rng_state=False, context_fn=mps_dropout_again)
    written = checkpoint(dropped, weight, **options)
    after = torch.get_rng_state()
    written.sum().backward()
    assert torch.equal(weight.grad, written.detach())  # exp is its own derivative, under the same mask
    assert torch.equal(torch.get_rng_state(), after)


def test_blocks_computed_again_are_not_kept():
    """What autograd holds on to between forward and backward."""
    sizes = []
    for recompute in (False, True):
        of, held = gradients(), []
        of.model.gradient_checkpointing = recompute
        with torch.autograd.graph.saved_tensors_hooks(lambda t, held=held: held.append(t.numel()) or t, lambda t: t):
            of.loss_sum(torch.zeros(4, 8, dtype=torch.long), torch.zeros(4, 8, dtype=torch.long))
        sizes.append(sum(held))
    assert sizes[1] < 0.4 * sizes[0]


def test_shorter_windows_see_the_same_tokens():
    of, seen = gradients(dropout=0.0), []
    of.loss_sum = lambda tokens, targets: seen.append((tokens, targets)) or of.model.loss_sum(tokens, targets)
    computed(of, WHOLE)
    computed(of, StepData(3, 4, window=2))
    (whole, targets), (pieces, piece_targets) = seen
    assert pieces.shape == (16, 2) and torch.equal(whole.flatten(), pieces.flatten())
    assert torch.equal(targets.flatten(), piece_targets.flatten())


def test_a_scaled_loss_scales_the_gradients_exactly_and_nothing_that_is_told():
    plain, scaled = computed(gradients(2), WHOLE), computed(gradients(2), WHOLE, scale=1024.0)
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
    expected = [computed(gradients(2), step) for step in (WHOLE, StepData(7, 4, window=2))]
    compiler = Compiler(fails_at)
    monkeypatch.setattr(torch, "compile", compiler)
    of = gradients(2)
    of.compile()
    for step, wanted in zip((WHOLE, StepData(7, 4, window=2)), expected, strict=True):
        assert_equal(computed(of, step), wanted)
    assert EVENTS == [("not compiled", "eager instead: RuntimeError: no C++ compiler")]
    assert compiler.calls == fails_at and not of.compiled


def test_out_of_memory_is_no_failure_of_the_compiler(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    of = gradients()
    of.model.loss_sum = Memory(of, tokens=16)
    of.compile()
    computed(of, WHOLE)
    assert of.compiled and of.micro_batch == 2


NOT_THE_COMPILERS = [
    RuntimeError("CUDA error: an illegal memory access was encountered"), DeviceError("mps does not compute it"),
    OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error"), FolderLostError("x"),
    NonFiniteError("NaN"), CorruptFileError("train.bin"),
]  # fmt: skip


@pytest.mark.parametrize("error", NOT_THE_COMPILERS, ids=str)
def test_a_fault_of_something_else_does_not_leave_the_compiler(monkeypatch, error):
    monkeypatch.setattr(torch, "compile", Compiler(2, error))
    of = gradients(2)
    of.compile()
    with pytest.raises(type(error)) as raised:
        of.compute(WHOLE)
    assert raised.value is error and of.compiled and not EVENTS


def test_a_cache_of_the_compiler_that_has_no_room_leaves_the_compiler(monkeypatch):
    """So it was met under RLIMIT_FSIZE: InductorError, caused by OSError 27."""
    error = torch._inductor.exc.InductorError(OSError(errno.EFBIG, "File too large"), None)
    error.__cause__ = OSError(errno.EFBIG, "File too large")
    monkeypatch.setattr(torch, "compile", Compiler(2, error))
    of = gradients(2)
    of.compile()
    of.compute(WHOLE)
    assert not of.compiled


@pytest.mark.fast
def test_causes_that_go_round_in_a_circle_come_to_an_end():
    first, second = OSError(errno.ENOSPC, "full"), ValueError("of the first")
    first.__cause__, second.__cause__ = second, first
    assert not is_of_compiler(first)


class Memory:
    """A loss with memory for so many tokens at once: beyond them torch's own words, with work half done."""

    def __init__(self, of: Gradients, tokens: int):
        self.real, self.tokens, self.held = of.model.loss_sum, tokens, []

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
    step, of = StepData(5, batch, window=8), gradients(micro_batch, dropout=dropout)
    of.loss_sum = Memory(of, tokens=8 * fitting)
    found = computed(of, step)
    assert of.micro_batch <= micro_batch and (of.micro_batch == micro_batch or min(batch, micro_batch) > fitting)
    assert_equal(found, computed(gradients(of.micro_batch, dropout=dropout), step))
    whole = computed(gradients(batch, dropout=0.0), step)
    if not dropout:
        assert found[:2] == pytest.approx(whole[:2], rel=1e-5)
    EVENTS.clear()
    assert_equal(computed(of, step), found)  # it stays so
    assert not EVENTS


def test_a_halving_is_told_with_its_evidence():
    of = gradients(4)
    of.loss_sum = Memory(of, tokens=8)
    computed(of, WHOLE)
    assert [name for name, _ in EVENTS] == ["out_of_memory"] * 2
    assert EVENTS[0][1].startswith("micro-batch 4 -> 2: RuntimeError: [enforce fail] DefaultCPUAllocator: can't alloc")
    assert EVENTS[1][1].startswith("micro-batch 2 -> 1: ")


@pytest.mark.parametrize(("device", "micro_batch"), [("cpu", 1), ("mps", 4)])
def test_what_cannot_be_halved_here_is_left_as_it_was_before_the_step(monkeypatch, device, micro_batch):
    """One window at a time is the least; on MPS a pass of another size gives wrong gradients in the same process."""
    monkeypatch.setattr(torch.mps, "get_rng_state", torch.get_rng_state)
    monkeypatch.setattr(torch.mps, "set_rng_state", torch.set_rng_state)
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: None)
    of = gradients(micro_batch)
    of.loss_sum = Memory(of, tokens=7)
    of.computing = Computing(**{**COMPUTING.__dict__, "device": device})
    of._add_up = lambda data, scale: of.loss_sum(torch.zeros(1, 8, dtype=torch.long), torch.zeros(1, 8).long())
    before = torch.get_rng_state()
    with pytest.raises(OutOfMemory, match=f"micro-batch {micro_batch}: RuntimeError: .*can't allocate") as error:
        of.compute(WHOLE)
    assert classify(error.value) == OUT_OF_MEMORY and error.value.__context__ is None
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in of.optimizer.parameters) and not EVENTS


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]))
def test_windows_are_passed_one_by_one_where_they_are_shorter_than_a_sequence(batch, micro_batch, context, first):
    step, seen = StepData(5, batch, window=min(context, first)), []
    of = gradients(micro_batch, context=context, dropout=0.0)
    of.loss_sum = lambda tokens, targets: seen.append(tokens) or of.model.loss_sum(tokens, targets)
    loss, norm, _ = computed(of, step)
    assert max(tokens.numel() for tokens in seen) <= micro_batch * context
    assert {tokens.size(1) for tokens in seen} == {step.window}
    assert torch.equal(torch.cat(seen).flatten(), of.feed.samples.batch(5, batch)[0].flatten())
    assert (loss, norm) == pytest.approx(computed(gradients(batch, dropout=0.0), step)[:2], rel=1e-5)


def test_a_failure_without_a_compiler_is_a_failure():
    of = gradients()
    of.loss_sum = Compiler(1)(of.model.loss_sum)
    with pytest.raises(RuntimeError, match="no C"):
        of.compute(WHOLE)
    assert not EVENTS


def test_the_next_piece_is_taken_where_it_was_foreseen_and_read_where_not():
    samples = gradients().feed.samples
    feed = Feed(samples, "meta")  # a device that is not the CPU: what is taken has been sent there
    loads = []
    feed._load = lambda first, count: loads.append((first, count)) or samples.batch(first, count)
    feed.prepare((0, 2))
    assert torch.equal(feed.take((0, 2))[0], samples.batch(0, 2)[0]) and loads == [(0, 2)]
    feed.prepare((2, 2))
    assert torch.equal(feed.take((9, 2))[0], samples.batch(9, 2)[0]) and loads == [(0, 2), (2, 2), (9, 2)]
