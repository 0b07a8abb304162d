"""The learning rate over the steps: linear warm-up, then cosine, warm-up-stable-decay (WSD) or constant.

Sources: Loshchilov and Hutter 2017 (cosine); Hu et al. 2024, MiniCPM, section 4 (WSD).
"""

import math
from dataclasses import dataclass

from nanogpt.config import TrainingConfig


@dataclass(frozen=True)
class CoolDown:
    """A straight line from `start_factor` at step `start` to min_lr_ratio at step `end`."""

    start: int
    end: int
    start_factor: float = 1.0


def factor_at(step: int, config: TrainingConfig, cool_down: CoolDown | None = None) -> float:
    """The share of each peak learning rate, 0 to 1, that the update from `step` to `step + 1` has.

    WSD without `cool_down` follows planned_cool_down(config); a clock may begin another one earlier.
    """
    if step < config.warmup_iters:
        return (step + 1) / config.warmup_iters
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "cosine":
        return _cosine(step, config)
    cool_down = cool_down or planned_cool_down(config)
    if step < cool_down.start:
        return 1.0
    progress = min(1.0, (step - cool_down.start) / max(1, cool_down.end - cool_down.start))
    return cool_down.start_factor + (config.min_lr_ratio - cool_down.start_factor) * progress


def planned_cool_down(config: TrainingConfig) -> CoolDown:
    """WSD's cool-down over the last decay_fraction of max_iters."""
    steps = round(config.max_iters * config.decay_fraction)
    return CoolDown(max(config.warmup_iters, config.max_iters - steps), config.max_iters)


def cool_down_for_clock(
    step: int, seconds_left: float, seconds_per_step: float, config: TrainingConfig, current: CoolDown | None
) -> CoolDown | None:
    """The cool-down that ends when the time does, or `current` where that is right already.

    A run that will be cut short begins to cool down once the steps that still fit are decay_fraction of all its
    steps. Speed is only known as one goes: a cool-down under way is bent, from where it is, when its end has moved
    by more than a tenth of what was left.
    """
    steps_left = max(1, int(min(config.max_iters, seconds_left / seconds_per_step)))  # of any time: it may be infinite
    end = min(config.max_iters, step + steps_left)
    if current is None:
        begins_by_itself = step >= planned_cool_down(config).start
        if step + steps_left >= config.max_iters and not begins_by_itself:
            return None
        if not begins_by_itself and steps_left > config.decay_fraction * (step + steps_left):
            return None
        current = planned_cool_down(config) if begins_by_itself else CoolDown(step, end)
    if step >= current.end or abs(end - current.end) <= 0.1 * (current.end - step):
        return current
    return CoolDown(step, end, factor_at(step, config, current))


def _cosine(step: int, config: TrainingConfig) -> float:
    progress = min(1.0, (step - config.warmup_iters) / max(1, config.max_iters - config.warmup_iters))
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
