"""Hyper-parameters and ablations by short trainings: python -m bench.recipe --data FILE [--only TEXT] [--write]

bench/recipe.yaml lists the studies. Each variant is trained here, in this process, on one thread with products in
bfloat16 where the processor has it: the product's model, optimizer, schedule and order of the data, plus what
bench/variants.py changes. The measure is nanoGPT's: windows of 64 over the last tenth of the text.

Results are kept in docs/recipe.json; what is there is not trained again. `--write` makes docs/recipe.md of it. Losses
do not depend on how busy the machine is, but another kind of processor rounds in another way: each names its own. The
cost of a variant is given in floating point operations.
"""

import argparse
import json
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from types import ModuleType
from unittest.mock import patch

import torch
import yaml
from torch import Tensor

from bench import variants
from bench.this_machine import this_machine
from flows.context.paths import CHECKOUT
from nanogpt import device as devices
from nanogpt import durable
from nanogpt.config import Config, DataConfig, load_config
from nanogpt.corpus import preparation, tokenising
from nanogpt.data.data_loader import Samples
from nanogpt.data.shards import open_split
from nanogpt.evaluation.known_results import NANOGPT_CPU_RECIPE
from nanogpt.evaluation.perplexity import nanogpt_measure
from nanogpt.model.gpt import GPT
from nanogpt.training.numerics import TORCH, choose_kernels, native_precision
from nanogpt.training.update import muon, newton_schulz
from nanogpt.training.update.optimizer import Optimizer
from nanogpt.training.update.schedule import factor_at, planned_cool_down

# Trainings of before the kind of machine was written down. What is known of it: the name and that bfloat16 was taken.
UNRECORDED = "an Intel(R) Xeon(R) Processor, torch 2.13.0+cpu, products in bfloat16 (by AMX or AVX-512: not recorded)"
STUDIES = CHECKOUT / "bench/recipe.yaml"
RESULTS = CHECKOUT / "docs/recipe.json"
# The texts of studies, and the share of each in the two splits that the loss is of.
SHAKESPEARE, A_FIFTH, PYTHON = "tiny Shakespeare", "a fifth of tiny Shakespeare", "Python's library"
JUDGED = {SHAKESPEARE: 0.05, A_FIFTH: 0.05 / (0.9 / 5 + 0.1), PYTHON: 0.005}


@dataclass(frozen=True)
class Variant:
    """One training of a study: settings on top of the study's base, and patches of bench/variants.py."""

    name: str
    steps: int
    settings: dict = field(default_factory=dict)
    patches: dict = field(default_factory=dict)

    def key(self, study: str, seed: int) -> str:
        return f"{study} / {self.name} / {self.steps} steps / seed {seed}"


@dataclass(frozen=True)
class Study:
    """A table of docs/recipe.md. The first variant is what the others are compared with."""

    name: str
    title: str
    config: str
    seeds: list[int]
    variants: list[Variant]
    note: str = ""
    text: str = SHAKESPEARE

    def trials(self) -> Iterator[tuple[str, Variant, int]]:
        for variant in self.variants:
            for seed in self.seeds:
                yield variant.key(self.name, seed), variant, seed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="tinyshakespeare.txt")
    parser.add_argument("--only", default="", metavar="TEXT", help="trainings whose name holds TEXT")
    parser.add_argument("--write", action="store_true", help="write docs/recipe.md from docs/recipe.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    studies = read_studies(STUDIES)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for study in studies:
            for key, variant, seed in study.trials():
                if given.only in key and key not in results:
                    data = characters(study.text, given.data, Path(folder))
                    results[key] = train(study.config, variant, seed, data)
                    print(f"{key}: {results[key]}", flush=True)
                    durable.write_text(RESULTS, json.dumps(results, indent=1) + "\n")
    if given.write:
        durable.write_text(CHECKOUT / "docs/recipe.md", report(studies, results))
    return 0


def characters(text: str, shakespeare: Path, folder: Path) -> Path:
    """Where the characters of a study's text are, made in `folder` when they are first asked for."""
    made = folder / text
    if not made.exists():
        settings = DataConfig(val_fraction=JUDGED[text], test_fraction=JUDGED[text])
        preparation.prepare([file_of(text, shakespeare, folder)], folder / f"{text}, text", settings)
        tokenising.tokenise(folder / f"{text}, text", "char", made, settings)
    return made


def file_of(text: str, shakespeare: Path, folder: Path) -> Path:
    if text == A_FIFTH:
        return a_fifth(shakespeare, folder / "fifth.txt")
    return shakespeare if text == SHAKESPEARE else pythons_library(folder / "library.txt")


def a_fifth(shakespeare: Path, file: Path) -> Path:
    """A fifth of what is learned from, and all of what is judged: so that a short training reads a text often."""
    text = shakespeare.read_bytes()
    learned = len(text) * 9 // 10
    file.write_bytes(text[: learned // 5] + text[learned:])
    return file


def pythons_library(file: Path) -> Path:
    """The ASCII modules of this Python's standard library, its tests left out: 11.4 MB in Python 3.11."""
    library = Path(sysconfig.get_paths()["stdlib"])
    modules = sorted(each for each in library.rglob("*.py") if not {"site-packages", "test", "tests"} & set(each.parts))
    file.write_bytes(b"\n".join(text for text in (each.read_bytes() for each in modules) if text.isascii()))
    return file


def read_studies(path: Path) -> list[Study]:
    """The studies in a YAML file; `base` and `patch` are in every variant of a study, `steps` where one names none."""
    studies = []
    for entry in yaml.safe_load(path.read_text()):
        base, patches, steps = entry.pop("base", {}), entry.pop("patch", {}), entry.pop("steps", None)
        entry["variants"] = [
            Variant(v["name"], v.get("steps", steps), {**base, **v.get("set", {})}, {**patches, **v.get("patch", {})})
            for v in entry["variants"]
        ]
        studies.append(Study(**entry))
    return studies


# ---- one training


def train(config: str, variant: Variant, seed: int, data: Path) -> dict:
    """The loss of one variant after its training, with its tokens, operations and parameters."""
    training = Training(config, variant, seed, data)
    for step in range(variant.steps):
        training.step(step)
    losses = {"loss": training.validation_loss()}
    for decay, average in training.averages.items():
        training.model.load_state_dict(average)
        losses[f"average {decay}"] = training.validation_loss()
    return {
        **{name: round(loss, 4) for name, loss in losses.items()}, "tokens": training.tokens,
        "flops": training.flops, "parameters": training.model.num_parameters(), "machine": this_machine(),
    }  # fmt: skip


class Training:
    """The product's parts in the smallest loop that trains."""

    def __init__(self, config: str, variant: Variant, seed: int, data: Path):
        text = open_split(data, "train")
        changes = {**variant.settings, "training.max_iters": variant.steps, "training.seed": seed,
                   "model.vocab_size": text.vocab_size}  # fmt: skip
        self.config: Config = load_config(CHECKOUT / f"configs/{config}.yaml").with_changes(changes)
        self.data, self.patches = data, variant.patches
        self.model = GPT(self.config.model, seed=seed)
        self.apply(variants.MODEL, self.model)
        self.precision = native_precision("cpu")
        if choose_kernels(self.config.device, "cpu", self.precision)[0] != TORCH:
            self.model.use_kernels()
        self.optimizer = Optimizer(
            self.model,
            self.config.training,
            getattr(torch, self.precision),
            self.patches.get("muon", muon.POLAR_EXPRESS),
        )
        self.apply(variants.OPTIMIZER, self.optimizer)
        self.replaced = list(self.chosen_orthogonalisation())
        self.samples = Samples(text.tokens, self.config.model.block_size, seed)
        self.cursor = self.tokens = self.flops = 0
        self.averages = {decay: self.weights() for decay in self.patches.get("averages", [])}

    def apply(self, changes: dict, target: object) -> None:
        for name, change in changes.items():
            if name in self.patches:
                change(target, self.patches[name])

    def chosen_orthogonalisation(self) -> Iterator[tuple[ModuleType, str, object]]:
        """Module, name and value of what replaces the product's while a step is made."""
        for name, make in variants.ORTHOGONALIZE.items():
            if name in self.patches:
                yield newton_schulz, "orthogonalize", make(self.patches[name])
        if "express" in self.patches:
            yield muon, "QUINTICS", variants.express(*self.patches["express"])

    def weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def step(self, step: int) -> None:
        tokens, targets = self.batch(step)
        training = self.config.training
        self.optimizer.forget_gradients()
        with devices.autocast("cpu", self.precision):
            summed, count = self.model.loss_sum(tokens, targets)
        (summed / count).backward()
        norm = self.optimizer.gradient_norm().item()
        if training.grad_clip and norm > training.grad_clip:
            self.optimizer.scale_gradients(training.grad_clip / norm)
        if "momentum_warm_up" in self.patches:
            warm_up = self.patches["momentum_warm_up"]
            self.optimizer.muon.momentum = variants.momentum_at(warm_up, step, training.muon_momentum)
        with ExitStack() as replaced:
            for module, name, value in self.replaced:
                replaced.enter_context(patch.object(module, name, value))
            self.optimizer.step(self.factor(step))
        for decay, average in self.averages.items():
            for name, value in self.model.state_dict().items():
                average[name].lerp_(value, 1 - decay)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The step's samples, (B, T) each, seen as (B T / L, L) where the windows are shorter."""
        training, done = self.config.training, step / self.config.training.max_iters
        whole = training.sequences_per_step
        sequences = variants.first_of(self.patches.get("batches", []), done, whole)
        length = variants.first_of(self.patches.get("lengths", []), done, self.samples.block_size)
        tokens, targets = self.samples.batch(self.cursor, sequences)
        self.cursor += sequences
        self.tokens += tokens.numel()
        self.flops += tokens.numel() * self.model.flops_per_token() + self.update_flops()
        return tokens.view(-1, length), targets.view(-1, length)

    def factor(self, step: int) -> float:
        training, cool_down = self.config.training, planned_cool_down(self.config.training)
        if "decay_power" not in self.patches or step < cool_down.start:
            return factor_at(step, training)
        progress = (step - cool_down.start) / (cool_down.end - cool_down.start)
        shape = variants.decay_shape(self.patches["decay_power"], progress)
        return training.min_lr_ratio + (1 - training.min_lr_ratio) * shape

    def update_flops(self) -> int:
        """Of one orthogonalisation, matrices r <= c. Newton-Schulz, an iteration: 2 r² c for the Gram matrix and for
        its use, 2 r³ for its square. Polar Express: the two once, and n steps on the Gram matrix, 8 r³ each but 6 r³
        less at the ends."""
        if self.config.training.optimizer != "muon":
            return 0
        if isinstance(self.optimizer.muon, muon.Muon):
            steps = self.patches["express"][0] if "express" in self.patches else len(muon.QUINTICS)
            stacks = [(k, *sorted(shape)) for k, *shape in (s.momentum.shape for s in self.optimizer.muon.stacks)]
            every = sum(k * (4 * r * r * c + (8 * steps - 6) * r**3) for k, r, c in stacks)
            return every // self.optimizer.muon.interval
        iterations = next((self.patches[n] for n in ("newton_schulz", "polar_express") if n in self.patches),
                          newton_schulz.NEWTON_SCHULZ_STEPS)  # fmt: skip
        blocks = [sorted((rows, p.size(1))) for p, parts in self.model.row_blocks().items() for rows in parts]
        return iterations * sum(4 * r * r * c + 2 * r**3 for r, c in blocks)

    def validation_loss(self) -> float:
        return nanogpt_measure(self.model.eval(), self.data)


# ---- the report


def report(studies: list[Study], results: dict) -> str:
    lines = [
        "# The recipe, measured", "",
        "These trainings are the reasons for the settings in `configs/`. `python -m bench.recipe --data FILE --write` "
        "makes this page from `docs/recipe.json`. `bench/recipe.yaml` lists the trainings; `bench/variants.py` has the "
        "changes that are not settings of the product.", "",
        "One thread on " + "; ".join(sorted({row.get("machine", UNRECORDED) for row in results.values()})) + ".", "",
        "The text is tiny Shakespeare's characters unless a study names another. The loss is nanoGPT's measure, nats a "
        "character over the last tenth of the text in windows of 64. For comparison, "
        f"{NANOGPT_CPU_RECIPE.title} ends at {NANOGPT_CPU_RECIPE.loss} after {NANOGPT_CPU_RECIPE.steps:,} steps. "
        "Operations (TFLOP) are those of forward, backward and Muon's update.", "",
    ]  # fmt: skip
    for study in studies:
        if not any(key in results for key, *_ in study.trials()):
            continue  # nobody has had the time yet
        note = [study.note.strip(), ""] if study.note else []
        lines += [f"## {study.title}", "", *note, *table(study, results), ""]
    return "\n".join(lines)


def table(study: Study, results: dict) -> list[str]:
    lines = ["| variant | steps | tokens | TFLOP | loss | against the first | lowest to highest | seeds |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    first = None
    for variant in study.variants:
        rows = [results[key] for seed in study.seeds if (key := variant.key(study.name, seed)) in results]
        if not rows:
            continue
        for measure in ("loss", *(name for name in rows[0] if name.startswith("average"))):
            losses = [row[measure] for row in rows]
            first = fmean(losses) if first is None else first
            name = variant.name if measure == "loss" else f"{variant.name}, weights' {measure}"
            lines.append(
                f"| {name} | {variant.steps:,} | {rows[0]['tokens']:,} | {rows[0]['flops'] / 1e12:.2f} "
                f"| {fmean(losses):.4f} | {fmean(losses) - first:+.4f} | {min(losses):.4f} to {max(losses):.4f} "
                f"| {len(losses)} |"
            )
    return lines


if __name__ == "__main__":
    sys.exit(main())
