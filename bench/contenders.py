"""What decodes in bench.decoding: each contender in a process of its own, which opens a model and answers when asked.

Run by bench.decoding as `python -m bench.contenders KIND FOLDER [OPTION ...]`. It says "ready" when all is imported;
for each line [prompt tokens, new tokens, texts, seconds] it answers with the seconds that they took.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np

from flows.context.paths import CHECKOUT
from nanogpt.machine import physical_cores

PATIENCE = 90  # seconds for an answer: the first opens the model, and builds and measures decoders
LONGEST_WORDS = 120
GREEDY = {"temperature": 0.0, "top_k": 1, "ignore_eos": True, "cache_prompt": False, "samplers": ["top_k"]}
T = TypeVar("T")


@dataclass(frozen=True)
class Ask:
    """A round: `tokens` of each of `texts` behind a prompt of so many, or as many as `seconds` allow, at least two."""

    prompt: int
    tokens: int
    texts: int
    seconds: float


@dataclass(frozen=True)
class Round:
    """Seconds until the first token, and of each one after it (for all texts of a batch)."""

    first: float
    token: float


class Failed(Exception):
    """The last line that a contender wrote before it ended, or that it took too long."""


class Process:
    """A contender in a process of its own."""

    def __init__(self, kind: str, folder: Path, options: Sequence[str]):
        command = [sys.executable, "-m", "bench.contenders", kind, str(folder), *options]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (as long as the process)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, cwd=CHECKOUT
        )
        self.failure = ""

    def wait(self) -> None:
        """Until all is imported."""
        self._line("ready")

    def round(self, ask: Ask) -> Round:
        """Raises Failed, this time and from then on."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended: what it wrote says why
            self.process.stdin.write(json.dumps([ask.prompt, ask.tokens, ask.texts, ask.seconds]) + "\n")
            self.process.stdin.flush()
        return Round(*json.loads(self._line("round")))

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def _line(self, name: str) -> str:
        """The rest of the next line that begins with `name`."""
        assert self.process.stdout is not None
        if self.failure:
            raise Failed(self.failure)
        impatience = threading.Timer(PATIENCE, self.process.kill)
        began = time.perf_counter()
        impatience.start()
        try:
            for line in self.process.stdout:
                if line.startswith(f"{name} "):
                    return line.removeprefix(f"{name} ")
        finally:
            impatience.cancel()
        self.failure = self._last_words(time.perf_counter() - began)
        raise Failed(self.failure)

    def _last_words(self, seconds: float) -> str:
        if seconds >= PATIENCE:
            return f"no answer in {PATIENCE} s"
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        return lines[-1][:LONGEST_WORDS] if lines else f"ended with {self.process.wait()}"


def paced(ask: Ask, work: Callable[[], T]) -> Iterator[T]:
    """What each call gives, as often as the round asks for."""
    ends = time.perf_counter() + ask.seconds
    for number in range(ask.tokens):
        if number >= 2 and time.perf_counter() > ends:
            return
        yield work()


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


Run = Callable[[Ask], Round]


def ours(folder: Path, backend: str, precision: str) -> Run:
    import torch  # its threads, for the backend of that name

    from nanogpt.decoders.opening import open_decoder

    assert precision in ("float32", "int8")
    torch.set_num_threads(physical_cores())
    decoder = open_decoder(folder, backend=backend, precision="int8" if precision == "int8" else "float32").decoder
    print(decoder.description, file=sys.stderr)

    def run(ask: Ask) -> Round:
        cache, prompt = decoder.new_cache(), (np.arange(ask.prompt) % (decoder.config.vocab_size or 1)).tolist()
        tokens = np.zeros(ask.texts, np.int64)

        def begin() -> None:
            tokens[:] = decoder.prefill([prompt] * ask.texts, cache).argmax(axis=1)

        def step() -> None:
            tokens[:] = decoder.step(tokens, cache).argmax(axis=1)

        return Round(timed(begin), median(paced(ask, lambda: timed(step))))

    return run


def transformers(folder: Path) -> Run:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(physical_cores())
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()

    @torch.inference_mode()
    def run(ask: Ask) -> Round:
        found: Any = None

        def read(tokens: torch.Tensor) -> None:
            nonlocal found
            found = model(tokens, past_key_values=found and found.past_key_values, use_cache=True, logits_to_keep=1)

        first = timed(lambda: read((torch.arange(ask.prompt) % model.config.vocab_size).expand(ask.texts, -1)))
        return Round(first, median(paced(ask, lambda: timed(lambda: read(found.logits[:, -1:].argmax(-1))))))

    return run


def no_cache(folder: Path) -> Run:
    """nanoGPT's generate(): each token reads the whole text again, all of its logits but the last unused."""
    import torch

    from nanogpt.weights.folders import model_of
    from nanogpt.weights.sources import source_at

    torch.set_num_threads(physical_cores())
    model = model_of(source_at(folder))

    @torch.inference_mode()
    def run(ask: Ask) -> Round:
        tokens = (torch.arange(ask.prompt) % int(model.config.vocab_size or 1)).expand(ask.texts, -1)

        def write() -> None:
            nonlocal tokens
            newest = model.head(model.hidden(tokens[:, -model.config.block_size :])[:, -1]).argmax(-1)
            tokens = torch.cat([tokens, newest[:, None]], dim=1)

        return Round(timed(write), median(paced(ask, lambda: timed(write))))

    return run


def xllamacpp(folder: Path) -> Run:
    """llama.cpp's own server in this process, without HTTP, and its own clock; the best number of threads."""
    import xllamacpp as llama

    [file] = folder.glob("*.gguf")

    def server(threads: int) -> Any:
        parameters = llama.CommonParams()
        parameters.model.path, parameters.n_parallel, parameters.warmup = str(file), 1, True
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        parameters.verbosity = -1
        return llama.Server(parameters)

    def answer(server: Any, ask: Ask) -> Round:
        request = {"prompt": [5 + i % 50 for i in range(ask.prompt)], "n_predict": ask.tokens, **GREEDY}
        answers: list[Any] = []
        server.handle_completions(json.dumps(request), answers.append)  # None: go on
        last = answers[-1] if isinstance(answers[-1], dict) else json.loads(str(answers[-1]))
        timings = last["timings"]
        return Round(timings["prompt_ms"] / 1e3, timings["predicted_per_token_ms"] / 1e3)

    servers = [server(threads) for threads in sorted({1, physical_cores()})]
    return lambda ask: best(answer(each, ask) for each in servers)


def llama_bench(folder: Path, program: str) -> Run:
    """llama.cpp's llama-bench of a build for this machine; the best number of threads."""
    [file] = folder.glob("*.gguf")
    threads = ",".join(str(each) for each in sorted({1, physical_cores()}))

    def run(ask: Ask) -> Round:
        command = [program, "-m", str(file), "-p", str(ask.prompt), "-n", str(ask.tokens), "-d", str(ask.prompt),
                   "-t", threads, "-r", "1", "-o", "json"]  # fmt: skip
        rows = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        first = min(row["avg_ns"] for row in rows if row["n_gen"] == 0)
        token = min(row["avg_ns"] / row["n_gen"] for row in rows if row["n_gen"])
        return Round(first / 1e9, token / 1e9)

    return run


def best(rounds: Iterable[Round]) -> Round:
    found = list(rounds)
    return Round(min(each.first for each in found), min(each.token for each in found))


KINDS: dict[str, Callable[..., Run]] = {
    found.__name__: found for found in (ours, transformers, no_cache, xllamacpp, llama_bench)
}


def main() -> int:
    kind, folder, *options = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")  # libraries may print what they like
    os.dup2(2, 1)
    if kind not in ("xllamacpp", "llama_bench"):
        import torch  # noqa: F401  (2 s that are not to fall into another contender's measurement)
    if kind == "transformers":
        from transformers import AutoModelForCausalLM  # noqa: F401
    print("ready ", file=answers, flush=True)
    run = None
    for line in sys.stdin:
        run = run or KINDS[kind](Path(folder), *options)
        found = run(Ask(*json.loads(line)))
        print("round", json.dumps([found.first, found.token]), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
