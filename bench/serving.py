"""nanogpt serve under 1 to 64 clients, and for hours: python -m bench.serving --model FOLDER [--write] [--soak SECONDS]

1. Tokens a second, time to the first token and between two, each text streamed, for 1, 4, 16 and 64 clients.
2. The same clients served one at a time (`--max-batch 1`): what continuous batching is worth.
3. `--soak`: clients with texts of random lengths, of whom many hang up in the middle, ask nonsense or come slowly;
   the server's memory, threads and files at equal intervals. It fails when one of them grows.

FOLDER is an export, such as a run's; a larger random model is made for the second table. Both ends share this
machine's cores, as in use on one laptop. `--write` puts the tables into docs/serving.md.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from bench.this_machine import this_machine
from nanogpt import durable
from nanogpt.units import byte_size, count

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "serving.md"
CLIENTS = (1, 4, 16, 64)
ALONE = 16  # clients that are served one at a time, too
SECONDS = 8.0  # a measurement
TOKENS = {"given": 100, "larger": 32}  # of a text
PROMPT = "ROMEO:\n"
LARGER = {"preset": "modern", "n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 256, "vocab_size": 110}
SAMPLES = 120  # of memory in a soak
GROWTH = 0.05  # of memory from the second quarter of a soak to the last that is still noise
HANGS_UP, NONSENSE, SLOW = 0.3, 0.1, 0.02  # shares of a soak's clients


@dataclass
class Text:
    """Seconds from asking: to the first token and to the end. steps: seconds between two events of the stream."""

    first: float
    total: float
    tokens: int
    steps: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """What so many clients saw."""

    clients: int
    batch: int
    tokens_per_second: float
    texts: int
    first: tuple[float, float, float]  # seconds, 50th, 95th and 99th percentile
    step: tuple[float, float, float]


@dataclass(frozen=True)
class Sample:
    """The server's process after `seconds`."""

    seconds: float
    memory: int
    threads: int
    files: int


class Server:
    """A server as a process of its own."""

    def __init__(self, model: Path, *arguments: str):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nanogpt.cli", "serve", str(model), "--port", "0", "--quiet", *arguments],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.port, self.backend = 0, ""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
            if found := re.search(r"is loaded: (.*)", line):
                self.backend = found[1]
            if self.port and self.backend:
                return
        raise SystemExit("the server did not start")

    def sample(self, since: float) -> Sample:
        process = psutil.Process(self.process.pid)
        with process.oneshot():
            return Sample(time.monotonic() - since, process.memory_info().rss, process.num_threads(), process.num_fds())

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, "it should end with 0"


@contextlib.contextmanager
def server(model: Path, *arguments: str) -> Iterator[Server]:
    one = Server(model, *arguments)
    try:
        yield one
    finally:
        one.stop()


# Clients. A library's would take more of the cores than the server.


async def write(port: int, body: dict[str, object], hang_up_after: int | None = None) -> Text:
    """One streamed text, read to its end, or left after so many events."""
    content = json.dumps({"stream": True, **body}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {len(content)}\r\nconnection: close\r\n\r\n"
    )
    asked = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode() + content)
        if not (await reader.readline()).startswith(b"HTTP/1.1 200"):
            raise ConnectionError((await reader.read()).decode(errors="replace"))
        text, last, events = Text(0.0, 0.0, 0), asked, 0
        async for line in reader:
            if not line.startswith(b"data: {"):
                continue
            now = time.perf_counter()
            events += 1
            if not text.first:
                text.first = now - asked
            else:
                text.steps.append(now - last)
            last = now
            if hang_up_after is not None and events >= hang_up_after:
                break
            if b'"completion_tokens"' in line:
                text.tokens = json.loads(line.removeprefix(b"data: "))["usage"]["completion_tokens"]
        text.total = time.perf_counter() - asked
        return text
    finally:
        writer.close()


async def write_until(port: int, end: float, seed: int, tokens: int) -> list[Text]:
    """One client: text after text."""
    texts = []
    while time.perf_counter() < end:
        seed += 1000
        texts.append(await write(port, {"prompt": PROMPT, "max_tokens": tokens, "seed": seed}))
    return texts


async def measure(port: int, clients: int, seconds: float, tokens: int) -> tuple[list[Text], float]:
    """Texts of so many clients, and the seconds that they took together; the last ones are waited for."""
    started = time.perf_counter()
    found = await asyncio.gather(*(write_until(port, started + seconds, client, tokens) for client in range(clients)))
    return [text for texts in found for text in texts], time.perf_counter() - started


def rows(model: Path, batch: int, clients: tuple[int, ...], seconds: float, tokens: int) -> tuple[list[Row], str]:
    found = []
    with server(model, "--max-batch", str(batch), "--max-queue", "1000") as one:
        asyncio.run(measure(one.port, max(clients) if batch > 1 else 1, seconds / 8, tokens))  # the caches' memory
        for number in clients:
            texts, took = asyncio.run(measure(one.port, number, seconds, tokens))
            steps = [step for text in texts for step in text.steps]
            rate = sum(text.tokens for text in texts) / took
            found.append(Row(number, batch, rate, len(texts), percentiles([text.first for text in texts]),
                             percentiles(steps)))  # fmt: skip
            print(line(found[-1]), flush=True)
        backend = one.backend
    return found, backend


def percentiles(values: list[float]) -> tuple[float, float, float]:
    first, second, third = np.percentile(values, [50, 95, 99])
    return float(first), float(second), float(third)


# A model


def larger(folder: Path) -> Path:
    """An export of a random model of 85 M parameters with the alphabet of tiny Shakespeare's size."""
    from nanogpt.config import ModelConfig
    from nanogpt.export import huggingface
    from nanogpt.model.gpt import GPT
    from nanogpt.tokenizers.characters import CharTokenizer

    letters = CharTokenizer([chr(code) for code in [10, *range(32, 127), *range(192, 205)]])
    huggingface.export(GPT(ModelConfig(**LARGER), seed=0), letters, folder)
    return folder


# The soak


async def soak(one: Server, seconds: float, clients: int) -> list[Sample]:
    """The server's memory, threads and files while clients come and go."""
    started = time.monotonic()
    crowd = [asyncio.create_task(restless(one.port, started + seconds, random.Random(n))) for n in range(clients)]
    samples = []
    for number in range(1, SAMPLES + 1):
        await asyncio.sleep(max(0.0, started + seconds * number / SAMPLES - time.monotonic()))
        samples.append(one.sample(started))
        if number % (SAMPLES // 12) == 0:
            print(soak_line(samples[-1]), flush=True)
    await asyncio.gather(*crowd)
    return samples


async def restless(port: int, end: float, dice: random.Random) -> None:
    """A client that asks, leaves, errs and dawdles; any answer will do, and none is no failure."""
    while time.monotonic() < end:
        kind = dice.random()
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            if kind < SLOW:
                await dawdle(port, dice.uniform(0, 3))
            elif kind < SLOW + NONSENSE:
                await write(port, {"prompt": PROMPT, "max_tokens": -1, "nonsense": "a" * dice.randrange(1000)})
            else:
                body = {
                    "prompt": PROMPT * dice.randrange(1, 20),
                    "max_tokens": dice.randrange(1, 300),
                    "n": dice.choice([1, 1, 1, 2, 4]),
                    "logprobs": dice.choice([None, None, 5]),
                    "stop": dice.choice([None, "\n\n"]),
                }
                await write(port, body, dice.randrange(1, 50) if dice.random() < HANGS_UP else None)
        await asyncio.sleep(dice.expovariate(20))


async def dawdle(port: int, seconds: float) -> None:
    """Half a request, then nothing."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n")
    await asyncio.sleep(seconds)
    writer.close()


def growth(samples: list[Sample]) -> float:
    """Of memory, from the second quarter's median to the last one's; the first quarter fills caches."""
    quarter = len(samples) // 4
    before, after = (median(sample.memory for sample in part) for part in (samples[quarter : 2 * quarter],
                                                                           samples[-quarter:]))  # fmt: skip
    return after / before - 1


def leaks(samples: list[Sample]) -> list[str]:
    """What grows, in words. Connections that are open when a sample is taken differ: medians are compared."""
    found = [f"memory by {100 * growth(samples):.0f} %"] if growth(samples) > GROWTH else []
    quarter = len(samples) // 4
    for name in ("threads", "files"):
        before, after = (median(getattr(sample, name) for sample in part) for part in (samples[quarter : 2 * quarter],
                                                                                      samples[-quarter:]))  # fmt: skip
        if after > before * 1.25 + 2:
            found.append(f"{name} from {before:.0f} to {after:.0f}")
    return found


# Tables

HEAD = (
    "| clients | together | tokens/s | texts | first token: median | 95 % | 99 % | between two: median | 99 % |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def line(row: Row) -> str:
    first, step = ([f"{seconds * 1000:,.1f} ms" for seconds in values] for values in (row.first, row.step))
    together = str(min(row.batch, row.clients))
    return (
        f"| {row.clients} | {together} | {row.tokens_per_second:,.0f} | {row.texts:,} | {first[0]} | {first[1]} | "
        f"{first[2]} | {step[0]} | {step[2]} |"
    )


SOAK_HEAD = "| after | memory | threads | open files |\n|---|---|---|---|"


def soak_line(sample: Sample) -> str:
    minutes = sample.seconds / 60
    return f"| {minutes:.1f} min | {byte_size(sample.memory)} | {sample.threads} | {sample.files} |"


def table(title: str, model: Path, seconds: float, tokens: int) -> str:
    """Clients served together, and 16 of them one at a time."""
    print(f"\n{title}\n{HEAD}")
    together, backend = rows(model, 64, CLIENTS, seconds, tokens)
    (alone,), _ = rows(model, 1, (ALONE,), seconds, tokens)
    (same,) = (row for row in together if row.clients == ALONE)
    gain = same.tokens_per_second / alone.tokens_per_second
    words = (
        f"**{title}**, {backend}, {tokens} tokens a text. {ALONE} clients together against one at a time: {gain:.1f}."
    )
    return "\n".join([words, "", HEAD, *map(line, [*together, alone])])


def put(name: str, text: str) -> None:
    """Replace the part of the document between the marks of that name."""
    document = DOCUMENT.read_text(encoding="utf-8")
    marks = re.compile(rf"(<!-- {name}: .* -->\n).*?(\n<!-- end of {name} -->)", re.DOTALL)
    assert marks.search(document), f"{DOCUMENT} has no place for {name}"
    durable.write_text(DOCUMENT, marks.sub(lambda found: f"{found[1]}\n{text}\n{found[2]}", document))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each measurement (default: %(default)s)")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="only this, for so long")
    parser.add_argument("--clients", type=int, default=32, help="of the soak (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/serving.md")
    arguments = parser.parse_args()
    # Where others compute too, at the least the reader should know.
    stamp = f"{this_machine()}; load {os.getloadavg()[0]:.1f} before it began; {time.strftime('%Y-%m-%d')}."
    if arguments.soak:
        print(SOAK_HEAD)
        with server(arguments.model) as one:
            samples = asyncio.run(soak(one, arguments.soak, arguments.clients))
            found = leaks(samples)
        shown = samples[SAMPLES // 12 - 1 :: SAMPLES // 12]
        verdict = f"Memory from the second quarter to the last: {100 * growth(samples):+.1f} %."
        print("\n".join([verdict, *(f"GROWS: {leak}" for leak in found)]))
        if arguments.write:
            put("soak", "\n".join([f"{stamp} {arguments.clients} clients. {verdict}", "", SOAK_HEAD,
                                   *map(soak_line, shown)]))  # fmt: skip
        return int(bool(found))
    with tempfile.TemporaryDirectory() as folder:
        random_model = larger(Path(folder) / "random" / "larger")
        tables = [
            table(arguments.model.name, arguments.model, arguments.seconds, TOKENS["given"]),
            table(f"{count(85e6)} random parameters", random_model, arguments.seconds, TOKENS["larger"]),
        ]
    if arguments.write:
        put("measured", "\n\n".join([stamp, *tables]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
