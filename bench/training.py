"""Against other trainers, in one run and by turns: python -m bench.training --nanogpt DIR --data FILE [--write]

1. Seconds of training to the loss that nanoGPT ends at, in the same windows over its validation split, the last tenth
   of tiny Shakespeare, with a model of no more parameters.
2. Tokens a second on equal shapes, on all cores and on one.
3. How near that is to what the machine can do: FLOP/s as a share of a plain matrix product's, measured here.

DIR is a checkout of nanoGPT (github.com/karpathy/nanoGPT); FILE is tiny Shakespeare. More contenders, each optional:

--lightning PYTHON  of an environment with `pip install lightning`: a plain loop around nanoGPT's model
--litgpt PYTHON     of an environment with `pip install litgpt`: its pretrain
--modded FILE       train_gpt2.py of modded-nanogpt (github.com/KellerJordan/modded-nanogpt) as of commit 299faa64

`--write` puts a section for this kind of machine into docs/training.md; those of other kinds stay. `--device cuda`
takes nanoGPT's larger recipe and GPT-2 124M at block 1024, compiled and in bfloat16; no such device was at hand when
this was written, so that half is untested.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median

import torch

from bench.equal_shapes import LARGE_PRODUCT, SHAPES, Result, contest, of_shape, product_rates, trainers
from bench.race import NO_COMPILER, RACES, Finish, Race, prepare, train_modded, train_nanogpt, train_ours
from bench.this_machine import kind, this_machine, write_section
from flows.context.paths import CHECKOUT
from nanogpt import device as devices
from nanogpt.training.numerics import native_precision

HEAD = """# Training against others

This page compares the speed of training with nanoGPT, modded-nanogpt, Lightning and LitGPT, with one section for each
kind of machine. `python -m bench.training --nanogpt DIR --data FILE --write` makes a section; its source says where the
others come from. Processes run one at a time and alternately. Figures are medians.

**The race** is to a loss of 1.8857, in windows of 64 over the last tenth of tiny Shakespeare's characters. There
nanoGPT's README recipe for CPUs ends after 2,000 steps, measured earlier; in the races below it ends at 1.8982.
nanoGPT's seconds are its median step times its steps, without its evaluations; the others' are the whole time from the
first step to the last.

- This project trains `configs/micro.yaml` with 12 sequences a step, `training.muon_interval` 2 and rates for so short a
  training (Muon 0.03, head and vectors 0.01).
- modded-nanogpt's recipe is that of its commit 299faa64 (November 2024), the last before FlexAttention and CUDA
  kernels. It is cut to this size: 4 layers, 4 heads, 128 wide, 12 windows of 64. The shares of its schedule and its
  four rates are kept. It runs in one process, without torch.compile.

**Equal shapes** are GPT-2's architecture with AdamW, on one batch again and again. Lightning trains nanoGPT's model in
a plain loop. LitGPT's pretrain has rotary positions, and compiles the model before its first step, which is not
counted. nanoGPT computes in float32, as it does on a CPU; the others in bfloat16 if it is multiplied in hardware.

The last column compares FLOP/s with PyTorch's own product of matrices in the same precision, on as many threads. On AMD
processors PyTorch's product uses AVX2 in float32 and this project's kernels use AVX-512, so a share may be above 100 %.

"No C compiler" is this project where it cannot build its kernels, so that PyTorch computes everything.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", type=Path, required=True, metavar="DIR")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="tinyshakespeare.txt")
    parser.add_argument("--lightning", metavar="PYTHON", help="of an environment with lightning")
    parser.add_argument("--litgpt", metavar="PYTHON", help="of an environment with litgpt")
    parser.add_argument("--modded", type=Path, metavar="FILE", help="modded-nanogpt's train_gpt2.py of commit 299faa64")
    parser.add_argument("--device", choices=RACES, default="cpu")
    parser.add_argument("--rounds", type=int, default=2, help="of the equal shapes, and of our short trainings (2)")
    parser.add_argument("--only", choices=("race", "shapes"), help="half of it, printed and not written")
    parser.add_argument("--write", action="store_true", help="write this kind's section of docs/training.md")
    given = parser.parse_args()
    if given.device not in devices.available():
        parser.error(f"--device {given.device}: not on this machine")
    if given.write and given.only:
        parser.error("--write: not with --only, a section is whole")
    device, nanogpt, race = given.device, given.nanogpt.resolve(), RACES[given.device]
    finishes: dict[str, list[Finish]] = {}
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name:
        prepare(nanogpt, given.data.resolve(), Path(name))
        if given.only != "shapes":
            finishes = run_race(race, device, nanogpt, given.modded, Path(name), given.rounds)
    cores = devices.physical_cores() if device == "cpu" else 1
    if given.only != "race":
        contenders = trainers(device, nanogpt, given.litgpt, given.lightning)
        for shape in SHAPES[device]:
            for threads, some in of_shape(shape, cores, contenders):
                results += contest(shape, device, threads, some, given.rounds)
    rates = {threads: product_rates(device, threads) for threads in sorted({cores, 1}, reverse=True)}
    text = report(given, race, finishes, results, rates)
    print(text)
    if given.write:
        named = kind() if device == "cpu" else devices.describe(device).name
        write_section(CHECKOUT / "docs/training.md", HEAD, named, text)
    return 0


def run_race(
    race: Race, device: str, nanogpt: Path, modded: Path | None, folder: Path, rounds: int
) -> dict[str, list[Finish]]:
    """By contender. The others' trainings are long, and run once; this project's short ones stand around them."""
    finishes: dict[str, list[Finish]] = {}

    def note(name: str, finish: Finish) -> None:
        finishes.setdefault(name, []).append(finish)
        print(f"{name}: {finish}", flush=True)

    def ours() -> None:
        number = len(finishes.get("this project", []))
        note("this project", train_ours(race, device, folder / "char", folder / f"ours-{number}"))

    ours()
    note("nanoGPT", train_nanogpt(race, device, nanogpt, folder / "nanogpt"))
    if modded and device == "cpu":
        note("modded-nanogpt's recipe", train_modded(modded.resolve(), nanogpt, native_precision(device)))
    if device == "cpu":
        note(
            "this project, no C compiler",
            train_ours(race, device, folder / "char", folder / "without", NO_COMPILER),
        )
    for _ in range(rounds):
        ours()
    return finishes


# ---- the section


def report(
    given: argparse.Namespace, race: Race, finishes: dict[str, list[Finish]], results: list[Result],
    rates: dict[int, dict[str, float]],
) -> str:  # fmt: skip
    device = given.device
    machine = this_machine() if device == "cpu" else f"{devices.describe(device).name}, torch {torch.__version__}"
    lines = [f"{machine}.", ""]
    if finishes:
        lines += race_table(race, finishes)
    if results:
        lines += shapes_table(device, results, rates)
    size = LARGE_PRODUCT[device]
    for threads, found in rates.items():
        said = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {name}" for name, rate in found.items())
        lines.append(f"A plain product of {size} x {size} matrices on {plural(threads, 'thread')}: {said}.")
    stated = devices.peak_rate(machine, "bfloat16") if device == "cuda" else None
    if stated:
        lines.append(f"Its maker states {stated / 1e9:,.0f} GFLOP/s in bfloat16.")
    return "\n".join([*lines, ""])


def race_table(race: Race, finishes: dict[str, list[Finish]]) -> list[str]:
    theirs, known = median(finish.seconds for finish in finishes["nanoGPT"]), race.theirs
    lines = [
        f"### To the loss of {race.title}", "",
        f"| | precision | steps | seconds of training | times as fast | loss, windows of {known.window} | parameters |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, found in finishes.items():
        seconds, loss = median(finish.seconds for finish in found), median(finish.loss for finish in found)
        lines.append(
            f"| {name} | {found[0].precision} | {found[0].steps:,} | {seconds:.1f} | {theirs / seconds:.1f} "
            f"| {loss:.4f} | {found[0].parameters:,} |"
        )
    worst = max(finish.loss for finish in finishes["this project"])
    reached = "reaches" if worst <= known.loss else "does not reach"
    ours = median(finish.seconds for finish in finishes["this project"])
    lines += [
        "",
        f"**{theirs / ours:.1f} times faster** than nanoGPT; this project {reached} {known.loss}, where nanoGPT "
        "is known to end.",
        "",
    ]
    return lines


def shapes_table(device: str, results: list[Result], rates: dict[int, dict[str, float]]) -> list[str]:
    lines = [
        "### Tokens a second on equal shapes", "",
        "| shape | threads | trainer | precision | tokens a second | of nanoGPT's | FLOP/s | share of a product's |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for each in results:
        theirs = next(other for other in results if (other.shape, other.threads) == (each.shape, each.threads))
        flops = each.tokens_per_second * each.shape.flops_per_token(device)
        lines.append(
            f"| {each.shape.title} | {each.threads} | {each.trainer.name} | {each.trainer.precision} "
            f"| {each.tokens_per_second:,.0f} | {each.tokens_per_second / theirs.tokens_per_second:.2f} "
            f"| {flops / 1e9:,.0f} G | {100 * (flops / rates[each.threads][each.trainer.precision]):.0f} % |"
        )
    return [*lines, ""]


def plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


if __name__ == "__main__":
    sys.exit(main())
