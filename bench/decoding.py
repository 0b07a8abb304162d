"""Decoding against llama.cpp, transformers and nanoGPT, in one run and alternating: python -m bench.decoding [--write]

Each contender is a process of its own that opens the model, and in each round writes some tokens when its turn comes:
the others wait meanwhile. The figures are medians over rounds. Greedy choice, random weights: speed does not depend on
what they are.

llama.cpp is xllamacpp's wheel, built for any processor with AVX2; `--llama-bench PROGRAM` adds the program of that name
from a build for this machine. `--write` makes docs/decoding.md. `--models micro` and `--rounds 2` make it short.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from bench.this_machine import this_machine
from flows.context.options import CHECKOUT
from nanogpt import durable
from nanogpt.config import ModelConfig, load_config
from nanogpt.data.tokenizer import CharTokenizer, Tokenizer, gpt2_tokenizer
from nanogpt.decoders.cache_folder import VARIABLE
from nanogpt.decoders.choosing import thread_counts
from nanogpt.decoders.opening import open_decoder
from nanogpt.export import formats, huggingface
from nanogpt.machine import cores, physical_cores
from nanogpt.model.gpt import GPT
from nanogpt.weights.folders import model_of
from nanogpt.weights.sources import source_at

REPORT = CHECKOUT / "docs/decoding.md"
CHARACTERS = "".join(chr(code) for code in range(32, 96))  # 64 and the unknown one
BATCHES = (8, 64)
GREEDY = {"temperature": 0.0, "top_k": 1, "ignore_eos": True, "cache_prompt": False, "samplers": ["top_k"]}


@dataclass(frozen=True)
class Model:
    """One of the models that are decoded; `prompt` and `tokens` of a round."""

    title: str
    config: ModelConfig
    prompt: int
    tokens: int


@dataclass(frozen=True)
class Contender:
    """`form`: the export that it opens, with its precision; `bits` of a weight as it is stored, scales included."""

    title: str
    kind: str
    form: tuple[str, str]
    bits: float
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Round:
    """Seconds until the first token, and of each one after it (for all texts of a batch)."""

    first: float
    token: float


def models() -> dict[str, Model]:
    shipped = {name: load_config(CHECKOUT / f"configs/{name}.yaml").model for name in ("micro", "tiny_model")}
    letters = {"vocab_size": len(CHARACTERS) + 1}
    gpt2 = ModelConfig(preset="gpt2", n_layer=12, n_head=12, n_embd=768, block_size=1024, vocab_size=50257)
    return {
        "micro": Model("micro, 0.8 M", shipped["micro"].model_copy(update=letters), 32, 31),
        "tiny": Model("tiny, 4.85 M", shipped["tiny_model"].model_copy(update=letters), 64, 63),
        "gpt2": Model("GPT-2, 124 M", gpt2, 256, 32),
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
OF_A_BUILD = [
    Contender("llama.cpp (built here)", "llama_bench", GGUF, 32),
    Contender("llama.cpp (built here), q8_0", "llama_bench", Q8, 8.5),
]


# A contender opens a folder and gives what runs one round: (prompt tokens, new tokens, texts) -> Round


def ours(folder: Path, backend: str, precision: str) -> Callable[[int, int, int], Round]:
    assert precision in ("float32", "int8")
    torch.set_num_threads(physical_cores())
    decoder = open_decoder(folder, backend=backend, precision="int8" if precision == "int8" else "float32").decoder
    print(decoder.description, file=sys.stderr)

    def run(prompt: int, count: int, texts: int) -> Round:
        cache, ids = decoder.new_cache(), np.arange(prompt) % (decoder.config.vocab_size or 1)
        began = time.perf_counter()
        tokens = decoder.prefill([ids.tolist()] * texts, cache).argmax(axis=1)
        first, taken = time.perf_counter() - began, []
        for _ in range(count):
            began = time.perf_counter()
            tokens = decoder.step(tokens, cache).argmax(axis=1)
            taken.append(time.perf_counter() - began)
        return Round(first, median(taken))

    return run


def transformers(folder: Path) -> Callable[[int, int, int], Round]:
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(physical_cores())
    model = AutoModelForCausalLM.from_pretrained(folder).eval()

    @torch.inference_mode()
    def run(prompt: int, count: int, texts: int) -> Round:
        tokens = (torch.arange(prompt) % model.config.vocab_size).expand(texts, -1)
        began = time.perf_counter()
        found = model(tokens, use_cache=True)
        first, taken = time.perf_counter() - began, []
        for _ in range(count):
            began = time.perf_counter()
            newest = found.logits[:, -1:].argmax(-1)
            found = model(newest, past_key_values=found.past_key_values, use_cache=True)
            taken.append(time.perf_counter() - began)
        return Round(first, median(taken))

    return run


def no_cache(folder: Path) -> Callable[[int, int, int], Round]:
    """nanoGPT's generate(): each token reads the whole text again, all of its logits but the last unused."""
    torch.set_num_threads(physical_cores())
    model = model_of(source_at(folder))

    @torch.inference_mode()
    def run(prompt: int, count: int, texts: int) -> Round:
        tokens, taken = (torch.arange(prompt) % int(model.config.vocab_size or 1)).expand(texts, -1), []
        for _ in range(min(count, 8) + 1):
            began = time.perf_counter()
            newest = model.head(model.hidden(tokens[:, -model.config.block_size :])[:, -1]).argmax(-1)
            tokens = torch.cat([tokens, newest[:, None]], dim=1)
            taken.append(time.perf_counter() - began)
        return Round(taken[0], median(taken[1:]))

    return run


def xllamacpp(folder: Path) -> Callable[[int, int, int], Round]:
    """llama.cpp's own server in this process, without HTTP, and its own clock; the best number of threads."""
    import xllamacpp as llama

    [file] = folder.glob("*.gguf")
    servers = []
    for threads in sorted({1, physical_cores()}):
        parameters = llama.CommonParams()
        parameters.model.path, parameters.n_parallel, parameters.warmup = str(file), 1, True
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        parameters.verbosity = -1
        servers.append(llama.Server(parameters))

    def answer(server: object, prompt: int, count: int) -> Round:
        request = {"prompt": [5 + i % 50 for i in range(prompt)], "n_predict": count, **GREEDY}
        chunks: list[dict[str, dict[str, float]]] = []
        server.handle_completions(json.dumps(request), lambda chunk: chunks.append(chunk) or False)  # type: ignore[attr-defined]
        last = chunks[-1] if isinstance(chunks[-1], dict) else json.loads(str(chunks[-1]))
        timings = last["timings"]
        return Round(timings["prompt_ms"] / 1e3, timings["predicted_per_token_ms"] / 1e3)

    def run(prompt: int, count: int, texts: int) -> Round:
        found = [answer(server, prompt, count) for server in servers]
        return Round(min(each.first for each in found), min(each.token for each in found))

    return run


def llama_bench(folder: Path, program: str) -> Callable[[int, int, int], Round]:
    """llama.cpp's llama-bench of a build for this machine; the best number of threads."""
    [file] = folder.glob("*.gguf")

    def run(prompt: int, count: int, texts: int) -> Round:
        threads = ",".join(str(each) for each in sorted({1, physical_cores()}))
        command = [program, "-m", str(file), "-p", str(prompt), "-n", str(count), "-d", str(prompt), "-t", threads,
                   "-r", "2", "-o", "json"]  # fmt: skip
        rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        first = min(row["avg_ns"] for row in rows if row["n_gen"] == 0)
        token = min(row["avg_ns"] / row["n_gen"] for row in rows if row["n_gen"])
        return Round(first / 1e9, token / 1e9)

    return run


class Process:
    """A contender in a process of its own, that does a round when asked."""

    def __init__(self, contender: Contender, folder: Path, program: str | None):
        options = [program or ""] if contender.kind == "llama_bench" else list(contender.options)
        command = [sys.executable, "-m", "bench.decoding", "--contender", contender.kind, str(folder), *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def round(self, prompt: int, tokens: int, texts: int) -> Round:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([prompt, tokens, texts]) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("round "):
                return Round(*json.loads(line.removeprefix("round ")))
        raise SystemExit(f"{' '.join(map(str, self.process.args))} ended")  # type: ignore[arg-type]

    def close(self) -> None:
        self.process.communicate()


def contend(kind: str, folder: Path, options: Sequence[str]) -> int:
    """What such a process does."""
    kinds = {found.__name__: found for found in (ours, transformers, no_cache, xllamacpp, llama_bench)}
    run = kinds[kind](folder, *options)
    for line in sys.stdin:
        found = run(*json.loads(line))
        print("round", json.dumps([found.first, found.token]), flush=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(models()), choices=list(models()))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--llama-bench", help="llama.cpp's program, built for this machine")
    parser.add_argument("--gpt2", type=Path, help="folder or mirror with GPT-2's vocabulary, for its model")
    parser.add_argument("--write", action="store_true", help=f"write {REPORT.relative_to(CHECKOUT)}")
    parser.add_argument("--contender", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        kind, folder, *options = given.contender
        return contend(kind, Path(folder), options)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[VARIABLE] = str(Path(folder) / "cache")
        lines = list(report(given, Path(folder)))
    if given.write:
        durable.write_text(REPORT, "\n".join(lines) + "\n")
    return 0


def report(given: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The lines of the document; printed as they come."""
    rate = bandwidth()
    opening = [
        "# Decoding, measured",
        "",
        "Made by `python -m bench.decoding --write`.",
        "",
        f"{this_machine()}; {rate / 1e9:.1f} GB/s from memory. Greedy, medians over {given.rounds} alternating rounds.",
        "First: time to the first token. Of memory: bytes of weights that a token reads, as a share of what memory",
        "gives in that time; above 100 % they come from the processor's caches.",
        f"Candidates of threads: {', '.join(map(str, thread_counts()))} on {cores()} cores.",
    ]
    yield from shown(opening)
    contenders = [*CONTENDERS, *(OF_A_BUILD if given.llama_bench else [])]
    for name in given.models:
        yield from shown(table(models()[name], contenders, given, folder / name, rate))
    if "micro" in given.models:
        yield from shown(
            ["", f"`nanogpt generate` of one token of micro, Python's start included: {load(folder):.2f} s."]
        )


def shown(lines: Iterator[str] | list[str]) -> Iterator[str]:
    for line in lines:
        print(line, flush=True)
        yield line


def table(
    model: Model, contenders: Sequence[Contender], given: argparse.Namespace, folder: Path, rate: float
) -> Iterator[str]:
    export(model, {contender.form for contender in contenders}, folder, given.gpt2)
    weights = read_for_a_token(model.config)
    processes = {found: Process(found, folder / "-".join(found.form), given.llama_bench) for found in contenders}
    rounds: dict[Contender, list[Round]] = {contender: [] for contender in contenders}
    batches: dict[int, list[Round]] = {size: [] for size in (1, *BATCHES)}
    for number in range(given.rounds + 1):
        for contender, process in processes.items():
            found = process.round(model.prompt, model.tokens, 1)
            rounds[contender] += [found] if number else []  # the first warms up
        for size in batches:
            found = processes[contenders[0]].round(16, min(16, model.tokens), size)
            batches[size] += [found] if number else []
    for process in processes.values():
        process.close()
    best = {bits > 16: speed for bits, speed in llama_speeds(rounds)}
    yield from ["", f"## {model.title}: prompt {model.prompt}, then {model.tokens} tokens", ""]
    yield from ["| | tokens/s | of llama.cpp at this precision | of memory | first |", "|---|---|---|---|---|"]
    for contender, found in rounds.items():
        speed = 1 / median(each.token for each in found)
        share = speed * weights * contender.bits / 8 / rate
        first = median(each.first for each in found) * 1e3
        yield (
            f"| {contender.title} | {speed:,.0f} | {speed / best[contender.bits > 16]:.2f} | {share:.0%} "
            f"| {first:,.1f} ms |"
        )
    speeds = {size: size / median(each.token for each in found) for size, found in batches.items()}
    listed = ", ".join(f"{speed:,.0f} tokens/s with {size}" for size, speed in speeds.items())
    yield from ["", f"Texts at once, {contenders[0].title}: {listed}: 8 are {speeds[8] / speeds[1]:.1f} times one."]


def llama_speeds(rounds: dict[Contender, list[Round]]) -> Iterator[tuple[float, float]]:
    """(bits, tokens a second) of llama.cpp, slowest first, so that the fastest of each precision counts."""
    of_llama = [(c.bits, 1 / median(r.token for r in found)) for c, found in rounds.items() if "llama" in c.title]
    yield from sorted(of_llama, key=lambda found: found[1])


def export(model: Model, forms: set[tuple[str, str]], folder: Path, gpt2: Path | None) -> None:
    """The model with random weights, in each form."""
    torch.manual_seed(0)
    made = GPT(model.config, seed=0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.02)
    tokenizer = _tokenizer(model.config, folder, gpt2)
    huggingface.export(made, tokenizer, folder / "-".join(HF), None)
    for fmt, precision in forms - {HF}:
        formats.write(folder / "-".join(HF), fmt, folder / f"{fmt}-{precision}", precision=precision)


def _tokenizer(config: ModelConfig, folder: Path, gpt2: Path | None) -> Tokenizer:
    if config.vocab_size == len(CHARACTERS) + 1:
        return CharTokenizer(CHARACTERS)
    return gpt2_tokenizer(folder / "gpt2-vocabulary", [str(gpt2)] if gpt2 else [])


def read_for_a_token(config: ModelConfig) -> int:
    """Weights that a token multiplies with: all but the tables that are looked up."""
    model = GPT(config, seed=None)
    return model.num_parameters(non_embedding=True) + model.head.weight.numel() * config.tie_weights


def bandwidth() -> float:
    """Bytes a second from memory: the best of several products of a large matrix and a vector."""
    torch.set_num_threads(physical_cores())
    matrix, vector = torch.ones(25_000, 4_096), torch.ones(4_096)  # 400 MB
    taken = []
    for _ in range(12):
        began = time.perf_counter()
        torch.mv(matrix, vector)
        taken.append(time.perf_counter() - began)
    return matrix.nbytes / min(taken)


def load(folder: Path) -> float:
    """Seconds of a whole process that opens micro and writes one token, its backend chosen before."""
    command = [sys.executable, "-m", "nanogpt.cli", "generate", str(folder / "micro" / "-".join(HF)), "--prompt", "A",
               "--tokens", "1"]  # fmt: skip
    taken = []
    for _ in range(6):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=CHECKOUT)
        taken.append(time.perf_counter() - began)
    return median(taken[1:])


if __name__ == "__main__":
    sys.exit(main())
