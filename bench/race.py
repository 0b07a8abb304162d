"""bench.training's race: seconds of training to the loss that nanoGPT ends at, by models of no more parameters."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from flows.context.paths import CHECKOUT
from nanogpt.config import DataConfig
from nanogpt.corpus import preparation, tokenising
from nanogpt.data import shards
from nanogpt.evaluation.known_results import NANOGPT_CPU_RECIPE, NANOGPT_GPU_RECIPE, KnownResult
from nanogpt.evaluation.perplexity import evaluate
from nanogpt.training.numerics import native_precision
from nanogpt.training.record.metrics import read_rows
from nanogpt.weights.folders import open_folder

PEERS = Path(__file__).parent / "peers"
NO_COMPILER = {"CC": "/no/compiler"}  # no kernels of C: PyTorch computes all
MODDED_STEPS = 800  # they end at 1.8667, 400 at 2.0186; one seed each


@dataclass(frozen=True)
class Race:
    """nanoGPT's train.py with `arguments` against configs/micro.yaml with `changes` for `steps`."""

    title: str
    arguments: list[str]
    theirs: KnownResult
    steps: int
    changes: list[str]


@dataclass(frozen=True)
class Finish:
    """One training: `loss` in windows over nanoGPT's validation split."""

    seconds: float
    loss: float
    parameters: int
    steps: int
    precision: str


RACES = {
    "cpu": Race(
        "nanoGPT's README recipe for CPUs",
        ["--device=cpu", "--compile=False", "--eval_iters=20", "--log_interval=50", "--block_size=64",
         "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128", "--max_iters=2000", "--lr_decay_iters=2000",
         "--dropout=0.0"],
        NANOGPT_CPU_RECIPE,
        steps=180,  # they end at 1.8806, 1.8678 and 1.8711 with three seeds, below 1.8857
        changes=["training.batch_size=12", "training.muon_interval=2", "training.muon_learning_rate=0.03",
                 "training.learning_rate=0.01"],  # 12 and 0.80 M parameters as nanoGPT has
    ),
    "cuda": Race(
        "nanoGPT's Shakespeare of characters",
        ["--device=cuda", "--compile=True", "--dtype=bfloat16"],
        NANOGPT_GPU_RECIPE,
        steps=1000,  # a fifth of nanoGPT's; the batch is the same
        changes=["model.n_layer=6", "model.n_head=6", "model.n_embd=384", "model.ffn_dim=1008", "model.block_size=256",
                 "model.dropout=0.2", "training.batch_size=64", "training.warmup_iters=100",
                 "device.mixed_precision=bfloat16", "device.compile=true"],  # 10.56 M parameters; nanoGPT has 10.65
    ),
}  # fmt: skip


def prepare(nanogpt: Path, text: Path, folder: Path) -> None:
    """The same characters and the same last tenth for all."""
    data = nanogpt / "data/shakespeare_char"
    (data / "input.txt").write_bytes(text.read_bytes())
    subprocess.run([sys.executable, "prepare.py"], cwd=data, check=True, capture_output=True)
    preparation.prepare([text], folder / "text", DataConfig())
    tokenising.tokenise(folder / "text", "char", folder / "char", DataConfig())


def run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    """What a command prints. SystemExit with its last words where it fails."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, **(environment or {})}
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        raise SystemExit(f"{' '.join(command)[:200]}: {last}")
    return done.stdout


def last_line(said: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def train_nanogpt(race: Race, device: str, nanogpt: Path, folder: Path) -> Finish:
    """nanoGPT's recipe: seconds are its median step times its steps, without evaluations and compilation."""
    options = [*race.arguments, f"--out_dir={folder}"]
    said = run([sys.executable, "train.py", "config/train_shakespeare_char.py", *options], nanogpt)
    steps = [float(milliseconds) for milliseconds in re.findall(r"iter \d+: loss [\d.]+, time ([\d.]+)ms", said)]
    seconds = median(steps) / 1000 * race.theirs.steps
    script, window = str(PEERS / "nanogpt_loss.py"), str(race.theirs.window)
    loss = last_line(run([sys.executable, script, str(folder / "ckpt.pt"), window, device], nanogpt))
    precision = "float32" if device == "cpu" else "bfloat16"
    return Finish(seconds, loss["loss"], loss["parameters"], race.theirs.steps, precision)


def train_modded(file: Path, nanogpt: Path, precision: str) -> Finish:
    """modded-nanogpt's recipe, cut: seconds are all that passed from the first step to the last."""
    script, data = str(PEERS / "modded_race.py"), str(nanogpt / "data/shakespeare_char")
    command = [sys.executable, script, str(file), data, str(MODDED_STEPS), "1337", precision]
    return Finish(**last_line(run(command, nanogpt)), steps=MODDED_STEPS, precision=precision)


def train_ours(race: Race, device: str, data: Path, model: Path, environment: dict[str, str] | None = None) -> Finish:
    """configs/micro.yaml with the race's changes: seconds are all that passed from the first step to the last."""
    changes = [*race.changes, f"training.max_iters={race.steps}", f"training.eval_interval={race.steps}",
               f"training.log_interval={race.steps}", "training.sample_interval=0",
               f"device.type={device}"]  # fmt: skip
    command = [sys.executable, "-m", "nanogpt.cli", "train", "configs/micro.yaml", "--data", str(data),
               "--folder", str(model)]  # fmt: skip
    for change in changes:
        command += ["--set", change]
    run(command, CHECKOUT, environment)
    rows = [row for row in read_rows(model / "metrics.jsonl") if row["kind"] == "train"]
    trained = open_folder(model)[0].to(device).eval()
    held_out = [shards.open_split(data, split) for split in ("val", "test")]  # together nanoGPT's last tenth
    tokens = np.concatenate([split.tokens for split in held_out])
    loss = evaluate(trained, tokens, race.theirs.window, sum(split.bytes for split in held_out), device).loss
    return Finish(rows[-1]["seconds"], loss, trained.num_parameters(), race.steps, native_precision(device))
