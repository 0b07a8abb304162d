"""bench.training's contest: tokens a second of several trainers on GPT-2's architecture, AdamW, in equal shapes."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.race import NO_COMPILER, PEERS, last_line, run
from flows.context.paths import CHECKOUT
from nanogpt import device as devices
from nanogpt.config import ModelConfig
from nanogpt.model.gpt import GPT
from nanogpt.tokenizers.vocabulary import GPT2_SIZE
from nanogpt.training.numerics import native_precision

SECONDS = 4  # of steps, a trainer and round
WARM_UP_STEPS = {"cpu": 2, "cuda": 5}  # a compiler works in the first ones
LARGE_PRODUCT = {"cpu": 1024, "cuda": 8192}  # rows of the matrices whose product is the machine's peak


@dataclass(frozen=True)
class Shape:
    """GPT-2's architecture in some size, and the tokens of a step."""

    title: str
    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    vocab_size: int
    batch_size: int

    def numbers(self) -> dict[str, int]:
        return {name: value for name, value in vars(self).items() if name != "title"}

    def flops_per_token(self, device: str) -> float:
        config = ModelConfig(preset="gpt2", n_layer=self.n_layer, n_head=self.n_head, n_embd=self.n_embd,
                             block_size=self.block_size, vocab_size=self.vocab_size, bias=device == "cpu")  # fmt: skip
        with torch.device("meta"):
            return GPT(config, seed=None).flops_per_token()


@dataclass(frozen=True)
class Trainer:
    """What is run for a row: `command` with what is wanted as JSON behind it, in `folder`."""

    name: str
    precision: str
    command: tuple[str, ...]
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """Median tokens a second of a trainer's rounds."""

    shape: Shape
    threads: int
    trainer: Trainer
    tokens_per_second: float
    warm_up: float  # seconds before the first step that counts, in the last round


LARGE = Shape("GPT-2 124M, 2 x 256", 12, 12, 768, 256, GPT2_SIZE, 2)
SHAPES = {
    "cpu": [Shape("4 layers, 128 wide, 12 x 64", 4, 4, 128, 64, 65, 12), LARGE],
    "cuda": [Shape("GPT-2 124M, 12 x 1024", 12, 12, 768, 1024, 50304, 12)],  # nanoGPT's bench.py has this vocabulary
}


def trainers(device: str, nanogpt: Path, litgpt: str | None, lightning: str | None) -> list[Trainer]:
    """The first is what all are held against. Each in the precision that its own training takes here; this project in
    both, so that one of its rows has nanoGPT's."""
    native = native_precision(device)
    ours = (sys.executable, "-m", "bench.peers.our_steps")
    nanogpts = "bfloat16" if device == "cuda" else "float32"
    found = [Trainer("nanoGPT", nanogpts, (sys.executable, str(PEERS / "nanogpt_steps.py")), nanogpt)]
    if lightning:
        found.append(Trainer("Lightning", native, (lightning, str(PEERS / "lightning_steps.py")), nanogpt))
    if litgpt:
        found.append(Trainer("LitGPT", native, (litgpt, str(PEERS / "litgpt_steps.py")), nanogpt))
    if device == "cuda":
        return [*found, Trainer("this project", native, ours, CHECKOUT)]
    found.append(Trainer("this project, no C compiler", native, ours, CHECKOUT, NO_COMPILER))
    return found + [Trainer("this project", each, ours, CHECKOUT) for each in sorted({"float32", native})]


def of_shape(shape: Shape, cores: int, all_of_them: list[Trainer]) -> list[tuple[int, list[Trainer]]]:
    """Who trains it, by the number of threads. The large one costs most of the time, so that fewer do, on all cores."""
    if shape is LARGE:
        return [(cores, [each for each in all_of_them if each.name != "LitGPT" and not each.environment])]
    return [(threads, all_of_them) for threads in sorted({cores, 1}, reverse=True)]


def contest(shape: Shape, device: str, threads: int, contenders: list[Trainer], rounds: int) -> list[Result]:
    """Each of them in turn, `rounds` times."""
    wanted = {
        "device": device,
        "threads": threads,
        "seconds": SECONDS,
        "warm_up": WARM_UP_STEPS[device],
        **shape.numbers(),
    }
    laps: list[list[dict[str, Any]]] = [[] for _ in contenders]
    for _ in range(rounds):
        for each, found in zip(contenders, laps, strict=True):
            want = json.dumps({**wanted, "precision": each.precision})
            found.append(last_line(run([*each.command, want], each.folder, each.environment)))
            print(f"{shape.title}, {threads} threads, {each.name} ({each.precision}): {found[-1]}", flush=True)
    tokens = shape.batch_size * shape.block_size
    return [
        Result(shape, threads, each, tokens / median(lap["seconds_per_step"] for lap in found), found[-1]["warm_up"])
        for each, found in zip(contenders, laps, strict=True)
    ]


def product_rates(device: str, threads: int) -> dict[str, float]:
    """FLOP/s of a plain product by precision."""
    devices.configure(device, threads)
    return {name: devices.matmul_rate(device, getattr(torch, name), LARGE_PRODUCT[device])
            for name in ("float32", "bfloat16")}  # fmt: skip
