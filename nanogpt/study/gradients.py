"""How training reaches the weights: a few real steps, and what each group's gradient and update come to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median

import torch
from torch import Tensor, nn

from nanogpt.config import Config, load_config, parse_overrides
from nanogpt.data.data_loader import Samples
from nanogpt.data.shard_file import Tokens
from nanogpt.data.shards import open_split
from nanogpt.faults import NonFiniteError, UserError
from nanogpt.model.gpt import GPT
from nanogpt.results.study import Flow, GradientStep, GradientStudy, LayerFlow, ParameterGroup
from nanogpt.study.subject import RANDOM, Subject
from nanogpt.training import numerics as numerical
from nanogpt.training.micro_batches import MicroBatches
from nanogpt.training.progress import Progress
from nanogpt.training.record.recorder import NoRecord
from nanogpt.training.state import TrainingState, set_up
from nanogpt.training.step import Stepper
from nanogpt.training.stopping import StopRequest
from nanogpt.training.update.optimizer import Optimizer
from nanogpt.training.update.schedule import factor_at
from nanogpt.weights.sources import source_at
from nanogpt.weights.trained_folder import CONFIG, TrainedFolder

KINDS = {  # of parameters, by the beginning of their name inside a block or in the model
    "attention.qkv": "query, key, value",
    "attention.output": "attention output",
    "feedforward.up": "feed-forward up",
    "feedforward.down": "feed-forward down",
    "token_embedding": "embedding",
    "position_embedding": "positions",
    "final_norm": "final norm",
    "head": "head",
}
NORMS = "norms"  # of a block
DEFAULT_TOKENS = 2048  # in a step of a model that brings no settings of its own
LOOKED_AT = 4096  # tokens, for the residual stream and the dead units
UNEVEN = 10.0  # times: a gradient that differs more between first and last block is worth a warning
SILENT = 0.01  # a unit that never exceeds this share of its layer's root mean square is dead
UNLIKE_A_STEP = {  # what makes a training's beginning special, or its folder
    "training.initial_block_size": None,
    "training.initial_batch": None,
    "training.init_from": None,
    "training.lora_rank": 0,
    "training.weight_average": 0.0,
    "device.compile": False,
    "device.mixed_precision": False,
}


def settings_of(place: str, overrides: Sequence[str] = ()) -> Config:
    """The settings that the model at `place` was, or is to be, trained with; defaults for one that brings none.
    `overrides`: KEY=VALUE, on top.

    Raises UserError.
    """
    if place.startswith(RANDOM):
        return load_config(place.removeprefix(RANDOM), overrides)
    source = source_at(place)
    if isinstance(source, TrainedFolder):
        return load_config(source.model_folder / CONFIG, overrides)
    sequences = max(1, DEFAULT_TOKENS // source.config.block_size)
    return Config().with_changes({"training.batch_size": sequences, **dict(parse_overrides(overrides))})


def last_factor(place: str, config: Config) -> float | None:
    """The share of each peak learning rate that weights which were trained saw at their last step; None for others."""
    return None if place.startswith(RANDOM) else factor_at(config.training.max_iters - 1, config.training)


def tokens_of_data(subject: Subject, data_folder: Path) -> Tokens:
    """(T,): the training split of `data_folder`. Raises UserError where it means another text to this model."""
    split = open_split(data_folder, "train")
    if split.tokenizer_digest != subject.tokenizer.digest:
        raise UserError(f"{data_folder}: is tokenised otherwise than what {subject.name} was trained on")
    return split.tokens


def gradient_study(
    subject: Subject,
    config: Config,
    tokens: Tokens,
    steps: int,
    factor: float | None = None,
    device: str = "cpu",
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> GradientStudy:
    """Take `steps` steps of a training of `config` with the subject's weights, on `tokens` (T,), in float32.

    The steps are the trainer's own, but that the optimizer begins without memory. Each has `factor` of the peak
    learning rates; None: what the schedule says of a training's first steps. The subject's weights change.
    `on_step` gets the number of each step and its loss. Raises UserError for a text shorter than a window,
    NonFiniteError.
    """
    window = subject.model.config.block_size
    if len(tokens) <= window:
        raise UserError(f"the text: has {len(tokens):,} tokens; steps of {subject.name} need more than {window:,}")
    config = config.with_changes({**UNLIKE_A_STEP, "device.type": device})
    config = config.model_copy(update={"model": subject.model.config})
    samples = Samples(tokens, config.model.block_size, config.training.seed)
    stepper = _stepper(subject.model, config, samples)
    groups = parameter_groups(subject.model)
    looked_at, _ = samples.batch(0, max(1, LOOKED_AT // config.model.block_size))  # (windows, block_size)
    looked_at = looked_at.to(device)
    before = residual_flow(subject.model, looked_at)
    taken = []
    for step in range(1, steps + 1):
        taken.append(_take(stepper, list(groups.values()), factor, step))
        on_step(step, taken[-1].loss)
    study = GradientStudy(
        model=subject.name,
        optimizer=config.training.optimizer,
        tokens_per_step=config.tokens_per_step,
        groups=list(groups),
        steps=taken,
        before=before,
        after=residual_flow(subject.model, looked_at),
        findings=[],
    )
    study.findings.extend(findings(study))
    return study


def _stepper(model: GPT, config: Config, samples: Samples) -> Stepper:
    """The trainer's steps with this model's weights; nothing is written."""
    numerics, _ = numerical.choose(config.device, before={})
    torch.manual_seed(config.training.seed)  # dropout
    set_up(model, numerics)
    optimizer = Optimizer(model, config.training, getattr(torch, numerics.newton_schulz))
    state = TrainingState(model, optimizer, None, Progress.at_start(config), numerics.device)
    stop = StopRequest()
    micro_batches = MicroBatches(samples, numerics.device, config.training.batch_size, config.context, stop)
    return Stepper(config, numerics, state, micro_batches, stop.check, NoRecord())


def parameter_groups(model: GPT) -> dict[ParameterGroup, list[nn.Parameter]]:
    """Every trained parameter in its group, from the embedding up to the head. A tied head is in the embedding's."""
    found: dict[tuple[int, str], list[nn.Parameter]] = {}
    last = model.config.n_layer
    for name, parameter in model.named_parameters():
        within, place = name, last if name.startswith(("final_norm", "head")) else -1
        if name.startswith("blocks."):
            _, layer, within = name.split(".", 2)
            place = int(layer)
        kind = next((kind for start, kind in KINDS.items() if within.startswith(start)), NORMS)
        found.setdefault((place, kind), []).append(parameter)
    return {
        ParameterGroup(kind, place if 0 <= place < last else None, sum(p.numel() for p in members)): members
        for (place, kind), members in sorted(found.items(), key=lambda item: item[0][0])
    }


def _take(stepper: Stepper, groups: list[list[nn.Parameter]], factor: float | None, step: int) -> GradientStep:
    """One step of the training, measured. Raises NonFiniteError."""
    state, progress, training = stepper.state, stepper.state.progress, stepper.config.training
    share = factor_at(progress.step, training) if factor is None else factor
    data = progress.next_step(stepper.config)
    loss, gradient_norm = stepper.forward_backward(data, loss_scale=1.0)
    if not math.isfinite(loss + gradient_norm):
        raise NonFiniteError(
            f"step {step}: the loss is {loss:.4g}, the gradient norm {gradient_norm:.4g}; "
            "a smaller learning rate may help (--factor)"
        )
    norms = [_norm([p.grad for p in members if p.grad is not None]) for members in groups]
    if training.grad_clip and gradient_norm > training.grad_clip:
        state.optimizer.scale_gradients(training.grad_clip / gradient_norm)
    before = [[p.detach().clone() for p in members] for members in groups]
    state.optimizer.step(share)
    ratios = [_ratio(members, old) for members, old in zip(groups, before, strict=True)]
    progress.step += 1
    progress.cursor += data.batch
    return GradientStep(loss, share, gradient_norm, norms, ratios)


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.nn.utils.get_total_norm(tensors))


def _ratio(weights: list[nn.Parameter], before: list[Tensor]) -> float | None:
    size = _norm(before)
    moved = [now.detach() - old for now, old in zip(weights, before, strict=True)]
    return _norm(moved) / size if size else None


# ---- the residual stream


@dataclass
class _Watched:
    """What passed through one block in a forward pass."""

    stream: list[Tensor] = field(default_factory=list)  # before the block
    attention: list[Tensor] = field(default_factory=list)
    feedforward: list[Tensor] = field(default_factory=list)
    units: list[Tensor] = field(default_factory=list)  # (B, T, ffn_dim) what the activation gave


@torch.no_grad()
def residual_flow(model: GPT, tokens: Tensor) -> Flow:
    """tokens (B, T): how the residual stream grows from block to block, and which units stay silent.

    The model's own forward pass is watched, in evaluation mode; it is put back to training.
    """
    was_training = model.training
    model.eval()
    with _watch(model) as (blocks, last):
        model.hidden(tokens)
    model.train(was_training)
    streams = [watched.stream[0] for watched in blocks] + last
    layers = []
    for watched, after in zip(blocks, streams[1:], strict=True):
        silent = watched.units[0].abs().amax((0, 1)) <= SILENT * _rms(watched.units[0])  # (ffn_dim,)
        attention, feedforward = _rms(watched.attention[0]), _rms(watched.feedforward[0])
        layers.append(LayerFlow(_rms(after), attention, feedforward, silent.numel(), int(silent.sum())))
    return Flow(_rms(streams[0]), layers)


@contextmanager
def _watch(model: GPT) -> Iterator[tuple[list[_Watched], list[Tensor]]]:
    """What passes through each block while the context is open, and the stream after the last one."""
    blocks, last = [_Watched() for _ in model.layers], list[Tensor]()
    handles = [model.final_norm.register_forward_pre_hook(lambda _, inputs: last.append(inputs[0]))]
    for block, seen in zip(model.layers, blocks, strict=True):
        handles += [
            block.attention_norm.register_forward_pre_hook(_keeps_input(seen.stream)),
            block.feedforward.down.register_forward_pre_hook(_keeps_input(seen.units)),
            block.attention.register_forward_hook(_keeps_output(seen.attention)),
            block.feedforward.register_forward_hook(_keeps_output(seen.feedforward)),
        ]
    try:
        yield blocks, last
    finally:
        for handle in handles:
            handle.remove()


def _keeps_input(kept: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    return lambda _, inputs: kept.append(inputs[0])


def _keeps_output(kept: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    return lambda _, inputs, output: kept.append(output)


def _rms(x: Tensor) -> float:
    return float(x.float().square().mean().sqrt())


# ---- in words


def findings(study: GradientStudy) -> list[str]:
    """What is to be seen in the figures, in sentences."""
    return [_depth_in_words(study), *_updates_in_words(study), _dead_in_words(study), _stream_in_words(study)]


def mean_norms(study: GradientStudy) -> list[float]:
    """Of each group, over the steps."""
    return [fmean(norms) for norms in zip(*(step.norms for step in study.steps), strict=True)]


def _depth_in_words(study: GradientStudy) -> str:
    """First block against last one: vanishing gradients shrink on their way down, exploding ones grow."""
    layers: dict[int, float] = {}
    for group, norm in zip(study.groups, mean_norms(study), strict=True):
        if group.layer is not None:
            layers[group.layer] = math.hypot(layers.get(group.layer, 0.0), norm)
    first, last = layers[0], layers[max(layers)]
    if len(layers) == 1:
        return f"The model has one block; its gradient has a norm of {first:.3g}."
    if not first or not last:
        return f"The gradient's norm is {first:.3g} in the first block and {last:.3g} in the last one."
    verdict = "it neither vanishes nor explodes on its way down"
    if first < last / UNEVEN:
        verdict = "it vanishes on its way down"
    elif first > UNEVEN * last:
        verdict = "it grows on its way down"
    return (
        f"The gradient's norm is {first:.3g} in the first block and {last:.3g} in the last one "
        f"({first / last:.2f} times): {verdict}."
    )


def _updates_in_words(study: GradientStudy) -> list[str]:
    """The groups whose weights move least and most, for their size."""
    middle: dict[ParameterGroup, float] = {}
    for place, group in enumerate(study.groups):
        ratios = [ratio for step in study.steps if (ratio := step.ratios[place]) is not None]
        if ratios:
            middle[group] = median(ratios)
    if not middle:
        return []
    least, most = min(middle, key=lambda group: middle[group]), max(middle, key=lambda group: middle[group])
    words = [
        f"A step changes the weights by {share(middle[least])} ({named(least)}) to {share(middle[most])} "
        f"({named(most)}) of their size; about 0.1 % is usual for AdamW in the middle of a training."
    ]
    frozen = [named(group) for group, ratio in middle.items() if ratio == 0]
    if frozen:
        words.append(f"Nothing moves {', '.join(frozen)}.")
    return words


def share(ratio: float) -> str:
    """0.000123 -> '0.012 %'."""
    return f"{100 * ratio:.2g} %"


def named(group: ParameterGroup) -> str:
    """`feed-forward up of block 3`, counted from 1."""
    return group.kind if group.layer is None else f"{group.kind} of block {group.layer + 1}"


def _dead_in_words(study: GradientStudy) -> str:
    before, after = study.before, study.after
    if not before.dead and not after.dead:
        return f"None of the {after.units:,} feed-forward units is dead."
    worst = max(range(len(after.layers)), key=lambda layer: after.layers[layer].dead)
    return (
        f"{after.dead:,} of {after.units:,} feed-forward units stay silent on every token looked at "
        f"({before.dead:,} before the steps), most of them in block {worst + 1} ({after.layers[worst].dead:,})."
    )


def _stream_in_words(study: GradientStudy) -> str:
    after = study.after
    sizes = [after.embedded, *(layer.stream for layer in after.layers)]
    steepest = max(range(1, len(sizes)), key=lambda place: sizes[place] / sizes[place - 1] if sizes[place - 1] else 0)
    grows = f"from {sizes[0]:.3g} after the embedding to {sizes[-1]:.3g} after the last block"
    return f"The residual stream goes {grows}; it grows most in block {steepest}."
