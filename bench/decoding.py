"""Decoding against llama.cpp, transformers and nanoGPT, in one run and alternating: python -m bench.decoding [--write]

Each contender is a process of its own that opens the model, and in each round writes some tokens when its turn comes:
the others wait meanwhile. The figures are medians over rounds. Greedy choice, random weights: speed does not depend on
what they are. It takes at most six minutes: a model's rounds end when its time is up, and the table says how many there
were. A contender that fails says so in its row.

llama.cpp is xllamacpp's wheel, built for any processor with AVX2; `--llama-bench PROGRAM` adds the program of that name
from a build for this machine. `--write` makes docs/decoding.md. `--models micro` and `--rounds 2` make it short.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from bench.contenders import Ask, Failed, Process, Round, timed
from bench.this_machine import this_machine
from flows.context.paths import CHECKOUT
from nanogpt import durable
from nanogpt.config import ModelConfig, load_config
from nanogpt.decoders.choosing import thread_counts
from nanogpt.export import formats, huggingface
from nanogpt.inference.options import Options
from nanogpt.inference.sampling import Sampler, choose
from nanogpt.machine import cores
from nanogpt.model.gpt import GPT
from nanogpt.native.cache_folder import VARIABLE
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.published import gpt2_tokenizer
from nanogpt.tokenizers.tokenizer import Tokenizer

REPORT = CHECKOUT / "docs/decoding.md"
CHARACTERS = "".join(chr(code) for code in range(32, 96))  # 64 and the unknown one
BATCHES = (1, 8, 64)
OF_A_BATCH = Ask(prompt=4, tokens=16, texts=1, seconds=0.5)
LEAST_ROUNDS = 2
SAMPLED = {
    "greedy": Options(temperature=0.0),
    "temperature 0.8": Options(temperature=0.8, seed=0),
    "top-k 50": Options(temperature=0.8, top_k=50, seed=0),
    "top-p 0.9": Options(temperature=0.8, top_p=0.9, seed=0),
    "min-p 0.05": Options(temperature=0.8, min_p=0.05, seed=0),
    "typical-p 0.9": Options(temperature=0.8, typical_p=0.9, seed=0),
}


@dataclass(frozen=True)
class Model:
    """One of the models that are decoded; `ask`: of a round; `seconds`: after which no further round begins."""

    title: str
    config: ModelConfig
    ask: Ask
    seconds: float


@dataclass(frozen=True)
class Contender:
    """`form`: the export that it opens, with its precision; `bits` of a weight as it is stored, scales included."""

    title: str
    kind: str
    form: tuple[str, str]
    bits: float
    options: tuple[str, ...] = ()


@dataclass
class Found:
    """What a contender reached: rounds, those of each batch size, or why it failed."""

    rounds: list[Round] = field(default_factory=list)
    batches: dict[int, list[Round]] = field(default_factory=lambda: {size: [] for size in BATCHES})
    failure: str = ""

    @property
    def speed(self) -> float:
        """Tokens a second; 0 of one that failed."""
        return 0.0 if self.failure or not self.rounds else 1 / median(each.token for each in self.rounds)

    def speeds(self) -> dict[int, float]:
        """Tokens a second of all texts of a batch."""
        return {size: size / median(each.token for each in found) for size, found in self.batches.items()}


def models() -> dict[str, Model]:
    shipped = {name: load_config(CHECKOUT / f"configs/{name}.yaml").model for name in ("micro", "tiny_model")}
    letters = {"vocab_size": len(CHARACTERS) + 1}
    gpt2 = ModelConfig(preset="gpt2", n_layer=12, n_head=12, n_embd=768, block_size=1024, vocab_size=50257)
    micro, tiny = (shipped[name].model_copy(update=letters) for name in ("micro", "tiny_model"))
    return {
        "micro": Model("micro, 0.8 M", micro, Ask(32, 31, 1, 0.5), 25),
        "tiny": Model("tiny, 4.85 M", tiny, Ask(64, 63, 1, 0.5), 30),
        "gpt2": Model("GPT-2, 124 M", gpt2, Ask(256, 32, 1, 1.5), 60),
    }


HF, GGUF, Q8 = ("hf", "float32"), ("gguf", "f32"), ("gguf", "q8_0")
CONTENDERS = [
    Contender("C", "ours", HF, 32, ("c", "float32")),
    Contender("onnxruntime", "ours", HF, 32, ("onnxruntime", "float32")),
    Contender("torch", "ours", HF, 32, ("torch", "float32")),
    Contender("llama.cpp (wheel)", "xllamacpp", GGUF, 32),
    Contender("transformers", "transformers", HF, 32),
    Contender("the whole window each time, as nanoGPT", "no_cache", HF, 32),
    Contender("C, int8", "ours", HF, 9, ("c", "int8")),
    Contender("onnxruntime, int8", "ours", HF, 9, ("onnxruntime", "int8")),
    Contender("llama.cpp (wheel), q8_0", "xllamacpp", Q8, 8.5),
]
BATCHED = ("C", "onnxruntime", "C, int8")  # those that also write several texts at once


def of_a_build(program: str) -> list[Contender]:
    return [
        Contender("llama.cpp (built here)", "llama_bench", GGUF, 32, (program,)),
        Contender("llama.cpp (built here), q8_0", "llama_bench", Q8, 8.5, (program,)),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(models()), choices=list(models()))
    parser.add_argument("--rounds", type=int, default=7, help="at most (default: %(default)s)")
    parser.add_argument("--llama-bench", metavar="PROGRAM", help="llama.cpp's program, built for this machine")
    parser.add_argument("--gpt2", type=Path, metavar="FOLDER", help="with GPT-2's vocabulary, for its model")
    parser.add_argument("--write", action="store_true", help=f"write {REPORT.relative_to(CHECKOUT)}")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ[VARIABLE] = str(Path(folder) / "cache")
        lines = list(report(given, Path(folder)))
    if given.write:
        durable.write_text(REPORT, "\n".join(lines) + "\n")
    return 0


def report(given: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The lines of the document; printed as they come."""
    began, rate, load = time.perf_counter(), bandwidth(), os.getloadavg()[0]
    candidates = ", ".join(map(str, thread_counts()))
    opening = [
        "# Decoding, measured",
        "",
        "Made by `python -m bench.decoding --write`.",
        "",
        f"{this_machine()}; {rate / 1e9:.1f} GB/s from memory; load average {load:.1f} before it began.",
        f"Greedy choice, medians over alternating rounds; numbers of threads that are tried: {candidates}.",
        '"First" is the time to the first token. "Of memory" compares the bytes of weights that a token reads with',
        "what all cores can read from memory in that time. It is above 100 % if a model is in the processor's caches.",
        "",
        "When a model is first opened, `--backend auto` checks the logits of C and onnxruntime. It measures both with",
        "each number of threads for a fraction of a second, and remembers the fastest for this model and machine in",
        "your cache folder (`NANOGPT_CACHE` names another). What was measured on a busy machine is measured again",
        "after ten minutes; `--backend measure` measures at once. On CUDA and MPS torch decodes. On CUDA a step is a",
        "graph that is launched as a whole; this was not tried on a GPU.",
    ]
    yield from shown(opening)
    contenders = [*CONTENDERS, *(of_a_build(given.llama_bench) if given.llama_bench else [])]
    for name in given.models:
        yield from shown(section(models()[name], contenders, given, folder / name, rate))
    if "micro" in given.models:
        yield from shown(start(folder / "micro" / "-".join(HF)))
    yield from shown(sampling())
    yield from shown(["", f"All of this took {time.perf_counter() - began:.0f} s."])


def shown(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        print(line, flush=True)
        yield line


def section(
    model: Model, contenders: Sequence[Contender], given: argparse.Namespace, folder: Path, rate: float
) -> Iterator[str]:
    failures = export(model, {contender.form for contender in contenders}, folder, given.gpt2)
    found = {each: Found(failure=failures.get(each.form, "")) for each in contenders}
    measure(model, found, folder, given.rounds)
    rounds = max((len(each.rounds) for each in found.values()), default=0)
    ask = model.ask
    yield from ["", f"## {model.title}: prompt {ask.prompt}, then {ask.tokens} tokens, {rounds} rounds", ""]
    yield from alone(found, read_for_a_token(model.config), rate)
    yield from together(found)


def alone(found: dict[Contender, Found], weights: int, rate: float) -> Iterator[str]:
    """A row for each contender with one text, or why it failed."""
    yield from ["| | tokens/s | of llama.cpp at this precision | of memory | first |", "|---|---|---|---|---|"]
    for contender, reached in found.items():
        if not reached.speed:
            yield f"| {contender.title} | failed: {reached.failure or 'no round'} | | | |"
            continue
        of_llama = reached.speed / best if (best := llama_speed(found, contender.bits > 16)) else None
        share = reached.speed * weights * contender.bits / 8 / rate
        first = median(each.first for each in reached.rounds) * 1e3
        against = f"{of_llama:.2f}" if of_llama else "-"
        cells = [f"{reached.speed:,.0f}", against, f"{100 * share:.0f} %", f"{first:,.1f} ms"]
        yield f"| {contender.title} | {' | '.join(cells)} |"


def together(found: dict[Contender, Found]) -> Iterator[str]:
    """A row for each contender that wrote several texts at once."""
    yield from ["", f"| Texts at once, tokens/s | {' | '.join(map(str, BATCHES))} | 8 of 1 |"]
    yield "|---|" + "---|" * (len(BATCHES) + 1)
    for contender, reached in found.items():
        if contender.title in BATCHED and reached.speed and all(reached.batches.values()):
            speeds = reached.speeds()
            listed = " | ".join(f"{speed:,.0f}" for speed in speeds.values())
            yield f"| {contender.title} | {listed} | {speeds[8] / speeds[1]:.1f} |"


def measure(model: Model, found: dict[Contender, Found], folder: Path, rounds: int) -> None:
    """Rounds of all contenders by turns, until there are enough or the model's time is up."""
    with ExitStack() as stack:
        processes: dict[Contender, Process] = {}
        for contender, reached in found.items():
            if not reached.failure:
                process = Process(contender.kind, folder / "-".join(contender.form), contender.options)
                stack.callback(process.close)
                processes[contender] = process
        for process in processes.values():
            with suppress(Failed):  # its turn says so
                process.wait()
        ends = float("inf")
        for number in range(rounds + 1):  # the first opens the model and warms up
            if number > LEAST_ROUNDS and time.perf_counter() > ends:
                return
            print(f"{time.strftime('%X')} {model.title}: round {number} of {rounds}", file=sys.stderr)
            for contender, process in processes.items():
                one_turn(model, contender, process, found[contender], counts=number > 0)
            ends = min(ends, time.perf_counter() + model.seconds)


def one_turn(model: Model, contender: Contender, process: Process, reached: Found, counts: bool) -> None:
    try:
        alone = process.round(model.ask)
        reached.rounds += [alone] if counts else []
        for size in BATCHES if contender.title in BATCHED else ():
            together = process.round(replace(OF_A_BATCH, texts=size))
            reached.batches[size] += [together] if counts else []
    except Failed as failure:
        reached.failure = str(failure)


def llama_speed(found: dict[Contender, Found], is_float: bool) -> float:
    """Tokens a second of the fastest llama.cpp of this precision, 0 where there is none."""
    of_llama = [each.speed for contender, each in found.items() if "llama" in contender.title
                and (contender.bits > 16) == is_float]  # fmt: skip
    return max(of_llama, default=0.0)


def export(model: Model, forms: set[tuple[str, str]], folder: Path, gpt2: Path | None) -> dict[tuple[str, str], str]:
    """The model with random weights, in each form; why a form could not be made."""
    torch.manual_seed(0)
    made = GPT(model.config, seed=0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.02)
    tokenizer = _tokenizer(model.config, folder, gpt2)
    huggingface.export(made, tokenizer, folder / "-".join(HF), None)
    failures = {}
    for fmt, precision in sorted(forms - {HF}):
        try:
            formats.write(folder / "-".join(HF), fmt, folder / f"{fmt}-{precision}", precision=precision)
        except Exception as error:  # the others can be measured all the same
            failures[fmt, precision] = f"{type(error).__name__}: {error}".splitlines()[0]
    return failures


def _tokenizer(config: ModelConfig, folder: Path, gpt2: Path | None) -> Tokenizer:
    if config.vocab_size == len(CHARACTERS) + 1:
        return CharTokenizer(CHARACTERS)
    return gpt2_tokenizer(folder / "gpt2-vocabulary", [str(gpt2)] if gpt2 else [])


def read_for_a_token(config: ModelConfig) -> int:
    """Weights that a token multiplies with: all but the tables that are looked up."""
    model = GPT(config, seed=None)
    return int(model.num_parameters(non_embedding=True) + model.head.weight.numel() * config.tie_weights)


def bandwidth() -> float:
    """Bytes a second from memory: the best of several readings of a large array, in parts by up to as many threads.

    An "or" of whole words is all that is done with them: a thread reads 29 GB/s so, 24 by a sum.
    """
    words = np.ones(50_000_000, np.int64)  # 400 MB
    seconds = []
    for threads in range(1, cores() + 1):
        with ThreadPoolExecutor(threads) as pool:
            read = partial(pool.map, np.bitwise_or.reduce, np.array_split(words, threads))
            seconds += [timed(lambda: list(read())) for _ in range(12)]  # noqa: B023  (called before the next round)
    return words.nbytes / min(seconds)


def start(folder: Path) -> Iterator[str]:
    """Seconds of a whole process that opens micro and writes one token; the first builds and measures, too."""
    command = [sys.executable, "-m", "nanogpt.cli", "generate", str(folder), "--prompt", "A", "--tokens", "1"]
    yield from ["", "## From the start of Python to the first token: `nanogpt generate`, micro", ""]

    def generate() -> None:
        subprocess.run(command, check=True, capture_output=True, cwd=CHECKOUT)

    try:
        first, *later = [timed(generate) for _ in range(6)]
    except subprocess.CalledProcessError as error:
        yield f"Failed: {error.stderr.decode().strip().splitlines()[-1]}"
        return
    yield f"{median(later):.2f} s, the median of {len(later)}; {first:.2f} s when the backend is not chosen yet."


def sampling() -> Iterator[str]:
    """Milliseconds of choosing one token of 50,257 by each option."""
    logits = np.random.default_rng(0).normal(0, 2.5, (32, 1, 50257)).astype(np.float32)
    yield from ["", "## Choosing one token of 50,257", "", f"| {' | '.join(SAMPLED)} |", "|" + "---|" * len(SAMPLED)]
    cells = []
    for options in SAMPLED.values():
        draw = partial(choose, samplers=[Sampler(options, ())])
        cells.append(median(timed(partial(draw, row)) for row in logits))
    yield f"| {' | '.join(f'{seconds * 1e3:.2f} ms' for seconds in cells)} |"


if __name__ == "__main__":
    sys.exit(main())
