"""Three models to plan with, a measured speed of each, and a text."""

from typing import Any

from flows.planning import budget_shares, planner
from flows.planning.forecast import Corpus, Speed
from nanogpt.config import Config
from nanogpt.units import GIB

MEMORY = 16 * GIB
PLAY = Corpus(1_115_394, 1_115_394, 65, 0.05, 0.05, 1.0)
SIZES = {"small": (64, 10**6), "middle": (128, 10**7), "large": (256, 10**8)}  # name: block_size, parameters


def model(name: str = "small", **training: Any) -> Config:
    values = {"batch_size": 8, "max_iters": 1000, "warmup_iters": 20, **training}
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": SIZES[name][0]}
    return Config.model_validate({"name": name, "model": shape, "training": values})


def speed(name: str = "small", seconds_per_step: float = 0.05, memory: float = GIB) -> Speed:
    return Speed(name, SIZES[name][1], seconds_per_step, 1e10, int(memory), False, 1)


def plan(models, speeds, budget=600.0, corpus=PLAY, memory=MEMORY, fixed=False, pinned=(), unmeasured=()):
    phases = budget_shares.by_experience(budget, corpus.bytes)
    return planner.make_plan(models, {speed.name: speed for speed in speeds}, dict(unmeasured), budget, phases, corpus,
                             memory, fixed, frozenset(pinned))  # fmt: skip
