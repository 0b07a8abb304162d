"""Against nanoGPT, in one run and alternating: python -m bench.training --nanogpt DIR --data FILE [--write]

1. Seconds of training to the loss that nanoGPT ends at, in the same windows over its validation split, the last tenth
   of tiny Shakespeare, with a model of no more parameters.
2. Tokens a second on equal shapes.
3. How near that is to what the machine can do: FLOP/s as a share of a plain matrix product's, measured here.

DIR is a checkout of nanoGPT (github.com/karpathy/nanoGPT); FILE is tiny Shakespeare. `--write` makes docs/training.md.
`--device cuda` takes nanoGPT's larger recipe and GPT-2 124M at block 1024, compiled and in bfloat16 on both sides; no
such device was at hand when this was written, so that half is untested.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from bench.this_machine import this_machine
from flows.context.options import CHECKOUT
from nanogpt import device as devices
from nanogpt import durable
from nanogpt.config import Config, DataConfig
from nanogpt.corpus import preparation, tokenising
from nanogpt.data import shards
from nanogpt.evaluation.known_results import NANOGPT_CPU_RECIPE, NANOGPT_GPU_RECIPE, KnownResult
from nanogpt.evaluation.perplexity import evaluate
from nanogpt.measure.profiler import choose_precision_and_threads
from nanogpt.measure.real_step import RealStep
from nanogpt.records import to_json
from nanogpt.tokenizers.vocabulary import GPT2_SIZE
from nanogpt.training.record.metrics import read_rows
from nanogpt.weights.folders import open_folder

SECONDS = 8  # of steps on an equal shape, a side and round
WARM_UP_STEPS = 5  # a compiler works in the first ones
PRECISIONS = [
    "nanoGPT's recipe computes in float32, this project in bfloat16 where the processor multiplies it in hardware.",
    "Where it does not, both compute in float32, and the times above say nothing about that.",
    "",
]
LARGE_PRODUCT = {"cpu": 1024, "cuda": 8192}  # rows of the matrices whose product is the machine's peak


@dataclass(frozen=True)
class Race:
    """nanoGPT's train.py with `arguments` against configs/micro.yaml with `changes` for `steps`."""

    title: str
    arguments: list[str]
    theirs: KnownResult
    steps: int
    changes: list[str]


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


RACES = {
    "cpu": Race(
        "its README's recipe for CPUs",
        ["--device=cpu", "--compile=False", "--eval_iters=20", "--log_interval=50", "--block_size=64",
         "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128", "--max_iters=2000", "--lr_decay_iters=2000",
         "--dropout=0.0"],
        NANOGPT_CPU_RECIPE,
        steps=195,  # 185 end at 1.8796 to 1.8864 over three seeds (docs/recipe.md): ten more are the margin
        changes=[],  # its 0.80 M parameters are as many as nanoGPT has
    ),
    "cuda": Race(
        "its Shakespeare of characters",
        ["--device=cuda", "--compile=True", "--dtype=bfloat16"],
        NANOGPT_GPU_RECIPE,
        steps=1000,  # a fifth of nanoGPT's; the batch is the same
        changes=["model.n_layer=6", "model.n_head=6", "model.n_embd=384", "model.ffn_dim=1008", "model.block_size=256",
                 "model.dropout=0.2", "training.batch_size=64", "training.warmup_iters=100",
                 "device.mixed_precision=bfloat16", "device.compile=true"],  # 10.56 M parameters; nanoGPT has 10.65
    ),
}  # fmt: skip
SHAPES = {
    "cpu": [
        Shape("4 layers, 128 wide, 12 x 64", 4, 4, 128, 64, 65, 12),
        Shape("GPT-2 124M, 2 x 256", 12, 12, 768, 256, GPT2_SIZE, 2),
    ],
    "cuda": [Shape("GPT-2 124M, 12 x 1024", 12, 12, 768, 1024, 50304, 12)],  # nanoGPT's bench.py has this vocabulary
}

# Run with nanoGPT's folder as the working folder: its own model, optimizer and loop body, on the shape given.
THEIR_STEPS = """
import contextlib, json, sys, time, torch
sys.path.insert(0, ".")
from model import GPT, GPTConfig
torch.manual_seed(1337)
device, seconds, warm_up = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
n_layer, n_head, n_embd, block, vocab, batch = map(int, sys.argv[4:])
cuda = device == "cuda"
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
model = GPT(GPTConfig(n_layer=n_layer, n_head=n_head, n_embd=n_embd, block_size=block, vocab_size=vocab, dropout=0.0,
                      bias=not cuda)).to(device)
optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), device)
model = torch.compile(model) if cuda else model
precision = torch.autocast("cuda", torch.bfloat16) if cuda else contextlib.nullcontext()
x = torch.randint(vocab, (batch, block), device=device)
times, began = [], None
while len(times) < warm_up + 3 or time.time() - began < seconds:
    t = time.time()
    with precision:
        _, loss = model(x, x)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if cuda:
        torch.cuda.synchronize()
    times.append(time.time() - t)
    began = time.time() if len(times) == warm_up else began
print(json.dumps(sorted(times[warm_up:])[len(times[warm_up:]) // 2]))
"""
THEIR_LOSS = """
import json, sys, numpy as np, torch
sys.path.insert(0, ".")
from model import GPT, GPTConfig
saved = torch.load(sys.argv[1], map_location="cpu", weights_only=False)
model = GPT(GPTConfig(**saved["model_args"])).eval()
model.load_state_dict({name.removeprefix("_orig_mod."): weight for name, weight in saved["model"].items()})
window, device = int(sys.argv[2]), sys.argv[3]
model.to(device)
tokens = torch.from_numpy(np.fromfile("data/shakespeare_char/val.bin", dtype=np.uint16).astype(np.int64))
count = (len(tokens) - 1) // window * window
x, y = tokens[:count].view(-1, window), tokens[1:count + 1].view(-1, window)
with torch.no_grad():
    losses = [model(a.to(device), b.to(device))[1].item() * len(a) for a, b in zip(x.split(128), y.split(128))]
print(json.dumps({"loss": sum(losses) / len(x), "parameters": sum(p.numel() for p in model.parameters())}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", type=Path, required=True, metavar="DIR")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="tinyshakespeare.txt")
    parser.add_argument("--device", choices=RACES, default="cpu")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write docs/training.md")
    given = parser.parse_args()
    if given.device not in devices.available():
        parser.error(f"--device {given.device}: not on this machine")
    nanogpt, race = given.nanogpt.resolve(), RACES[given.device]
    devices.configure(given.device, devices.physical_cores())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(nanogpt, given.data.resolve(), folder)
        theirs, ours = [], []
        for number in range(given.rounds):
            theirs.append(train_theirs(race, given.device, nanogpt, folder / f"theirs-{number}"))
            ours.append(train_ours(race, given.device, folder / "char", folder / f"ours-{number}"))
            print(f"round {number + 1}: nanoGPT {theirs[-1]}, this project {ours[-1]}", flush=True)
        speeds = [contest(shape, given.device, nanogpt, given.rounds) for shape in SHAPES[given.device]]
    text = report(given.device, race, theirs, ours, speeds)
    print(text)
    if given.write:
        durable.write_text(CHECKOUT / "docs/training.md", text)
    return 0


def prepare(nanogpt: Path, text: Path, folder: Path) -> None:
    """The same characters and the same last tenth for both."""
    data = nanogpt / "data/shakespeare_char"
    (data / "input.txt").write_bytes(text.read_bytes())
    subprocess.run([sys.executable, "prepare.py"], cwd=data, check=True, capture_output=True)
    preparation.prepare([text], folder / "text", DataConfig())
    tokenising.tokenise(folder / "text", "char", folder / "char", DataConfig())


# ---- to the loss


def train_theirs(race: Race, device: str, nanogpt: Path, folder: Path) -> dict:
    """nanoGPT's recipe: seconds are its median step times its steps, without evaluations and compilation."""
    said = run_theirs(nanogpt, "train.py", "config/train_shakespeare_char.py", *race.arguments, f"--out_dir={folder}")
    steps = [float(milliseconds) for milliseconds in re.findall(r"iter \d+: loss [\d.]+, time ([\d.]+)ms", said)]
    seconds = median(steps) / 1000 * race.theirs.steps
    said = run_theirs(nanogpt, "-c", THEIR_LOSS, str(folder / "ckpt.pt"), str(race.theirs.window), device)
    loss = json.loads(said.splitlines()[-1])
    return {"seconds": round(seconds, 1), "loss": round(loss["loss"], 4), "parameters": loss["parameters"]}


def train_ours(race: Race, device: str, data: Path, model: Path) -> dict:
    """configs/micro.yaml with the race's changes: seconds are all that passed from the first step to the last."""
    changes = [*race.changes, f"training.max_iters={race.steps}", f"training.eval_interval={race.steps}",
               f"training.log_interval={race.steps}", "training.sample_interval=0",
               f"device.type={device}"]  # fmt: skip
    command = [sys.executable, "-m", "nanogpt.cli", "train", "configs/micro.yaml", "--data", str(data),
               "--folder", str(model)]  # fmt: skip
    for change in changes:
        command += ["--set", change]
    subprocess.run(command, cwd=CHECKOUT, check=True)
    rows = [row for row in read_rows(model / "metrics.jsonl") if row["kind"] == "train"]
    trained = open_folder(model)[0].to(device).eval()
    held_out = [shards.open_split(data, split) for split in ("val", "test")]  # together nanoGPT's last tenth
    tokens = np.concatenate([split.tokens for split in held_out])
    loss = evaluate(trained, tokens, race.theirs.window, sum(split.bytes for split in held_out), device).loss
    return {"seconds": round(rows[-1]["seconds"], 1), "loss": round(loss, 4), "parameters": trained.num_parameters()}


def run_theirs(nanogpt: Path, *arguments: str) -> str:
    """What Python says in nanoGPT's folder."""
    return subprocess.run([sys.executable, *arguments], cwd=nanogpt, check=True, capture_output=True, text=True).stdout


# ---- tokens a second


def contest(shape: Shape, device: str, nanogpt: Path, rounds: int) -> dict:
    """Median tokens a second of both on one shape, alternating; ours on a CPU in the faster precision."""
    tokens, theirs, ours = shape.batch_size * shape.block_size, [], []
    numbers = (shape.n_layer, shape.n_head, shape.n_embd, shape.block_size, shape.vocab_size, shape.batch_size)
    for _ in range(rounds):
        said = run_theirs(nanogpt, "-c", THEIR_STEPS, device, str(SECONDS), str(WARM_UP_STEPS), *map(str, numbers))
        theirs.append(tokens / json.loads(said.splitlines()[-1]))
        ours.append(our_speed(shape, device))
        print(f"{shape.title}: nanoGPT {theirs[-1]:,.0f} tokens/s, this project {ours[-1]}", flush=True)
    return {
        "title": shape.title, "theirs": median(theirs), "ours": median(speed["tokens_per_second"] for speed in ours),
        "flops": median(speed["flops_per_second"] for speed in ours), "precision": ours[-1]["precision"],
    }  # fmt: skip


def our_speed(shape: Shape, device: str) -> dict:
    """tokens_per_second, flops_per_second and precision of this project's steps."""
    model = {"preset": "gpt2", "n_layer": shape.n_layer, "n_head": shape.n_head, "n_embd": shape.n_embd,
             "block_size": shape.block_size, "vocab_size": shape.vocab_size, "bias": device == "cpu"}  # fmt: skip
    training = {"batch_size": shape.batch_size, "optimizer": "adamw"}
    config = Config.model_validate({"model": model, "training": training})
    if device == "cpu":
        return to_json(choose_precision_and_threads(config.model_dump(), "cpu", 2 * SECONDS))
    real = RealStep(config, device, "bfloat16")
    real.model.loss_sum = torch.compile(real.model.loss_sum, dynamic=False)
    for _ in range(WARM_UP_STEPS):
        real.run()
    times, ends = [], time.perf_counter() + SECONDS
    while time.perf_counter() < ends:
        began = time.perf_counter()
        real.run()  # it ends with the device's work
        times.append(time.perf_counter() - began)
    tokens_per_second = shape.batch_size * shape.block_size / median(times)
    flops = tokens_per_second * real.model.flops_per_token()
    return {"tokens_per_second": tokens_per_second, "flops_per_second": flops, "precision": "bfloat16"}


# ---- the report


def report(device: str, race: Race, theirs: list[dict], ours: list[dict], speeds: list[dict]) -> str:
    their_seconds, our_seconds = (median(row["seconds"] for row in side) for side in (theirs, ours))
    their_loss, our_loss = (median(row["loss"] for row in side) for side in (theirs, ours))
    known = race.theirs
    reached = "reaches" if our_loss <= known.loss else "does not reach"
    machine = this_machine() if device == "cpu" else f"{devices.describe(device).name}, torch {torch.__version__}"
    peaks = {name: devices.matmul_rate(device, getattr(torch, name), LARGE_PRODUCT[device])
             for name in ("float32", "bfloat16")}  # fmt: skip
    lines = [
        "# Training against nanoGPT", "",
        "Made by `python -m bench.training --nanogpt DIR --data FILE --write`"
        f"{'' if device == 'cpu' else f' with `--device {device}`'}: {machine}; "
        f"{len(ours)} rounds, alternating, medians.", "",
        f"## To the loss of {race.title}", "",
        f"| | seconds of training | loss, windows of {known.window} | parameters | steps |", "|---|---|---|---|---|",
        f"| nanoGPT | {their_seconds:.1f} | {their_loss:.4f} | {theirs[0]['parameters']:,} | {known.steps:,} |",
        f"| this project | {our_seconds:.1f} | {our_loss:.4f} | {ours[0]['parameters']:,} | {race.steps:,} |",
        "", f"**{their_seconds / our_seconds:.1f} times faster**; it {reached} {known.loss}, where nanoGPT is known "
        "to end.", "", *(PRECISIONS if device == "cpu" else []),
        "## Tokens a second on equal shapes (GPT-2's architecture, AdamW, both)", "",
        "| shape | nanoGPT | this project | ratio | FLOP/s | share of a matrix product's |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in speeds:
        lines.append(
            f"| {row['title']} | {row['theirs']:,.0f} | {row['ours']:,.0f} ({row['precision']}) "
            f"| {row['ours'] / row['theirs']:.2f} | {row['flops'] / 1e9:,.0f} G "
            f"| {row['flops'] / peaks[row['precision']]:.0%} |"
        )
    rates = ", ".join(f"{peak / 1e9:,.0f} GFLOP/s in {name}" for name, peak in peaks.items())
    size = LARGE_PRODUCT[device]
    lines += ["", f"A plain product of {size} x {size} matrices reaches {rates}."]
    stated = devices.peak_rate(machine, "bfloat16") if device == "cuda" else None
    if stated:
        lines.append(f"Its maker states {stated / 1e9:,.0f} GFLOP/s in bfloat16.")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
