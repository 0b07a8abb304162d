"""Text of any size against the clock: python -m bench.data [--folder DIR] [--mirror DIR] [--parts NAME ...] [--write]

    throughput  `nanogpt prepare` from files to shards against tiktoken's own encode_ordinary_batch() on text that is
                in memory, and against datasets.map() with the tokenizers library: alternating, medians
    size        seconds and memory for a tenth, three tenths and all of the text
    workers     one process, two, and a Dask cluster of four of which one is killed: seconds, and the same bytes
    kills       killed 20 times at random, the whole or one worker, and the same bytes
    stages      CPU seconds of each pass in one process, and what a terabyte would take by 100 workers
    loader      how many times as many tokens the loader gives as the fastest trainer here takes

DIR keeps the text (about 1.3 GB with 500 MB), and results.json with what was measured: a part that is there is not
measured again. `--write` puts the tables behind "## Measured" of docs/data.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from bench.made_text import make_text, part_of, read_documents
from bench.process_tree import Tree, run
from bench.this_machine import this_machine
from flows.context.paths import CHECKOUT
from nanogpt import durable
from nanogpt.data import shards
from nanogpt.machine import cores
from nanogpt.units import byte_size, duration

DOCUMENT = CHECKOUT / "docs/data.md"
HEADING = "## Measured\n"
KILLS = 20
ON_DASK = 4  # workers
MEMORY_A_DOCUMENT = 46  # bytes, measured where nanogpt/corpus/duplicates.py was written
Result = dict[str, Any]


class Bench:
    """The text, and where results lie."""

    def __init__(self, folder: Path, megabytes: int, kill_megabytes: int, rounds: int, mirror: Path):
        self.folder, self.megabytes, self.rounds, self.mirror = folder, megabytes, rounds, mirror
        self.log = folder / "log.txt"
        folder.mkdir(parents=True, exist_ok=True)
        self.text = make_text(folder, megabytes, mirror / "tinyshakespeare.txt")
        self.small = part_of(self.text, kill_megabytes)

    def command(self, text: Path, out: Path, workers: int, on: str | None = None) -> list[str]:
        """GPT-2's ids of `text`, duplicates and near duplicates looked for, as is usual."""
        where = ["--workers", str(workers), *(["--on", on] if on else [])]
        return [sys.executable, "-m", "nanogpt.cli", "prepare", str(text), "--out", str(out), "--tokenizer", "gpt2",
                *where, "--set", f"data.mirror={self.mirror}"]  # fmt: skip

    @contextmanager
    def empty(self) -> Iterator[Path]:
        """A folder that is not there yet, and is gone afterwards."""
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        try:
            yield out
        finally:
            shutil.rmtree(out, ignore_errors=True)

    def prepare(self, text: Path, out: Path, workers: int, on: str | None = None) -> Result:
        took = run(self.command(text, out, workers, on), self.log, CHECKOUT)
        return {**asdict(took), **amounts(out), "digest": digest_of(out)}

    def contender(self, kind: str, out: Path, tokenizer: Path) -> Result:
        """A contender's own seconds; the memory is that of all its processes."""
        os.environ |= {"TIKTOKEN_CACHE_DIR": str(self.mirror / "tiktoken"), "HF_DATASETS_OFFLINE": "1"}
        said = self.folder / f"{kind}.txt"
        said.unlink(missing_ok=True)
        command = [sys.executable, "-m", "bench.data_contenders", kind, str(self.text), str(cores()), str(tokenizer),
                   str(out)]  # fmt: skip
        took = run(command, said, CHECKOUT)
        found = json.loads(next(line for line in said.read_text().splitlines() if line.startswith("{")))
        return {**asdict(took), **found, "mb_a_second": found["bytes"] / found["seconds"] / 1e6}


def amounts(out: Path) -> Result:
    """Of what came out: bytes of text and ids of all splits."""
    splits = shards.read_manifest(out).splits.values()
    size, tokens = sum(split.bytes for split in splits), sum(split.tokens for split in splits)
    return {"bytes": size, "tokens": tokens}


def digest_of(out: Path) -> str:
    """Of the manifest and of all ids, read again from the disk."""
    found = hashlib.sha256()
    for path in sorted([*out.glob("**/*.bin"), out / shards.MANIFEST]):
        found.update(f"{path.relative_to(out)} {durable.sha256_file(path)}\n".encode())
    return found.hexdigest()


# ---- what is measured


def throughput(bench: Bench) -> Result:
    """Each in turn, `rounds` times. The text that was read counts for the speed, duplicates included."""
    found: dict[str, list[Result]] = {"nanogpt": [], "tiktoken": [], "datasets": []}
    size = text_bytes(bench.text)
    for number in range(bench.rounds):
        with bench.empty() as out:
            ours = bench.prepare(bench.text, out, cores())
            tokenizer = bench.folder / "tokenizer.json"
            shutil.copy(out / "tokenizer.json", tokenizer)
        found["nanogpt"].append({**ours, "mb_a_second": size / ours["seconds"] / 1e6})
        for kind in ("tiktoken", "datasets"):
            with bench.empty() as out:
                found[kind].append(bench.contender(kind, out, tokenizer))
        speeds = ", ".join(f"{kind} {rows[-1]['mb_a_second']:.1f} MB/s" for kind, rows in found.items())
        print(f"round {number + 1}: {speeds}", flush=True)
    return {"text_bytes": size, "rounds": found}


def size(bench: Bench) -> Result:
    """Seconds and memory with as many processes as cores, for three sizes."""
    rows = []
    for megabytes in (bench.megabytes // 10, bench.megabytes * 3 // 10, bench.megabytes):
        text = part_of(bench.text, megabytes) if megabytes < bench.megabytes else bench.text
        with bench.empty() as out:
            rows.append({"text_bytes": text_bytes(text), **bench.prepare(text, out, cores())})
        print(f"{megabytes} MB: {rows[-1]['seconds']:.1f} s, {byte_size(rows[-1]['memory'])}", flush=True)
    return {"rows": rows}


def workers(bench: Bench) -> Result:
    """The same text by one process, two, and a cluster of Dask that loses a worker. Raises AssertionError for other
    bytes."""
    rows = {}
    for title, count, on in (("1 process", 1, None), ("2 processes", 2, None), ("Dask", ON_DASK, "dask")):
        with bench.empty() as out:
            if on is None:
                rows[title] = bench.prepare(bench.small, out, count)
            else:
                tree = Tree(bench.command(bench.small, out, count, on), bench.log, CHECKOUT)
                while not list(out.glob("text/pieces/*")) and not tree.wait(0.05):
                    pass  # until a worker has done the first piece
                killed = tree.kill_one(random.Random(0))
                tree.wait()
                took = tree.took()
                assert killed and took.code == 0, f"{title}: killed {killed}, code {took.code}; see {bench.log}"
                rows[title] = {**asdict(took), **amounts(out), "digest": digest_of(out)}
        print(f"{title}: {rows[title]['seconds']:.1f} s, {rows[title]['digest'][:16]}", flush=True)
    assert len({row["digest"] for row in rows.values()}) == 1, "the bytes differ"
    return {"text_bytes": text_bytes(bench.small), "rows": rows}


def kills(bench: Bench) -> Result:
    """KILLS times, the whole command and one of its workers in turn, at random moments; the same command goes on.

    Raises AssertionError for other bytes, or where a lost worker ended the command.
    """
    generator = random.Random(2026)
    with bench.empty() as out:
        undisturbed = bench.prepare(bench.small, out, cores())
    done, finished, seconds = {"whole": 0, "worker": 0}, 0, 0.0
    while sum(done.values()) < KILLS:
        with bench.empty() as out:
            seconds += _with_kills(bench, out, undisturbed["seconds"], done, generator)
            assert digest_of(out) == undisturbed["digest"], f"other bytes after {done}; see {bench.log}"
        finished += 1
        print(f"{done}: finished {finished} times, the same bytes", flush=True)
    return {"text_bytes": text_bytes(bench.small), "undisturbed": undisturbed, "kills": done, "finished": finished,
            "seconds": seconds}  # fmt: skip


def _with_kills(bench: Bench, out: Path, usual: float, done: dict[str, int], generator: random.Random) -> float:
    """Until it is finished; adds to `done`. Seconds of it all."""
    seconds = 0.0
    while True:
        tree = Tree(bench.command(bench.small, out, max(2, cores())), bench.log, CHECKOUT)
        whole, wanted = done["whole"] <= done["worker"], sum(done.values()) < KILLS
        if wanted and not tree.wait(generator.uniform(0, usual)):
            if whole:
                tree.kill()
                done["whole"] += 1
            elif _kill_a_worker(tree, generator):
                done["worker"] += 1
        tree.wait()
        seconds += tree.took().seconds
        if tree.code == -signal.SIGKILL:
            continue
        assert tree.code == 0, f"code {tree.code}; see {bench.log}"
        return seconds


def _kill_a_worker(tree: Tree, generator: random.Random) -> bool:
    """As soon as there is one; False where the command ends before."""
    while not tree.kill_one(generator):
        if tree.wait(0.02):
            return False
    return True


def loader(bench: Bench) -> Result:
    """Tokens a second of batches over the small text's shards, in random order, against steps of configs/micro.yaml."""
    from nanogpt.config import load_config
    from nanogpt.data.data_loader import Samples
    from nanogpt.measure.profiler import choose_precision_and_threads

    config = load_config(CHECKOUT / "configs/micro.yaml").with_changes({"model.vocab_size": 66})
    block, count = config.model.block_size, config.training.batch_size
    with bench.empty() as out:
        bench.prepare(bench.small, out, cores())
        samples = Samples(shards.open_split(out, "train").tokens, block, seed=1)
        batches, began = 0, time.perf_counter()
        while time.perf_counter() - began < 10:
            samples.batch(batches * count, count)
            batches += 1
        given = batches * count * block / (time.perf_counter() - began)
    trainer = choose_precision_and_threads(config.model_dump(), "cpu", 16)
    print(f"loader {given:,.0f} tokens/s, trainer {trainer.tokens_per_second:,.0f}", flush=True)
    return {"loader": given, "trainer": trainer.tokens_per_second, "block_size": block, "batch_size": count}


def stages(bench: Bench) -> Result:
    """CPU seconds of one process for each pass, which is what many workers divide among themselves, or cannot."""
    with bench.empty() as out:
        said = bench.folder / "stages.txt"
        said.unlink(missing_ok=True)
        run([sys.executable, "-m", "bench.data_stages", str(bench.text), str(out), str(bench.mirror)], said, CHECKOUT)
    found: Result = json.loads(next(line for line in said.read_text().splitlines() if line.startswith("{")))
    print(", ".join(f"{name} {value:,.1f}" for name, value in found.items()), flush=True)
    return found


PARTS: dict[str, Callable[[Bench], Result]] = {
    "throughput": throughput, "size": size, "stages": stages, "workers": workers, "kills": kills, "loader": loader,
}  # fmt: skip


def text_bytes(folder: Path) -> int:
    """Of the documents, without JSON around them."""
    return sum(len(text.encode()) for text in read_documents(folder))


# ---- the report


def throughput_table(found: Result) -> Iterator[str]:
    titles = {"nanogpt": "`nanogpt prepare`, from files to shards",
              "tiktoken": "tiktoken, `encode_ordinary_batch`, 20,000 texts in memory",
              "datasets": "`datasets.map` with tokenizers, from files to Arrow"}  # fmt: skip
    middle = {kind: median(row["mb_a_second"] for row in rows) for kind, rows in found["rounds"].items()}
    size, count = found["text_bytes"], len(found["rounds"]["nanogpt"])
    yield f"{size / 1e6:,.0f} MB of text, GPT-2's ids, {cores()} cores each, medians of {count} rounds, alternating:"
    yield ""
    yield "| | MB/s | tokens/s | against `nanogpt prepare` | memory of all its processes |"
    yield "|:---|--:|--:|--:|--:|"
    for kind, rows in found["rounds"].items():
        tokens = median(row["tokens"] / row["bytes"] for row in rows) * middle[kind] * 1e6
        yield (
            f"| {titles[kind]} | {middle[kind]:.1f} | {tokens / 1e6:.2f} M | {middle[kind] / middle['nanogpt']:.2f} "
            f"| {byte_size(max(row['memory'] for row in rows))} |"
        )


def size_table(found: Result) -> Iterator[str]:
    yield f"With {cores()} processes, for other sizes of the same text:"
    yield ""
    yield "| text | seconds | MB/s | memory of all processes |"
    yield "|--:|--:|--:|--:|"
    for row in found["rows"]:
        speed = row["text_bytes"] / row["seconds"] / 1e6
        yield (
            f"| {row['text_bytes'] / 1e6:,.0f} MB | {row['seconds']:.1f} | {speed:.1f} | {byte_size(row['memory'])} |"
        )


def workers_table(found: Result) -> Iterator[str]:
    yield f"{found['text_bytes'] / 1e6:,.0f} MB by other workers; the bytes of all files of ids are the same:"
    yield ""
    yield "| workers | seconds | CPU seconds | sha256 of manifest and ids |"
    yield "|:---|--:|--:|:---|"
    for title, row in found["rows"].items():
        named = title if title != "Dask" else f"Dask, {ON_DASK} processes, one killed (SIGKILL) on the way"
        yield f"| {named} | {row['seconds']:.1f} | {row['cpu']:.1f} | `{row['digest'][:16]}…` |"


def kills_lines(found: Result) -> Iterator[str]:
    yield (
        f"{found['text_bytes'] / 1e6:,.0f} MB, killed {sum(found['kills'].values())} times at random moments "
        f"({found['kills']['whole']} times all of it, {found['kills']['worker']} times one of its processes): the same "
        f"command finished {found['finished']} times, each time with the bytes of the undisturbed one. All together "
        f"took {found['seconds']:.0f} s; undisturbed, one takes {found['undisturbed']['seconds']:.1f} s."
    )


def loader_lines(found: Result) -> Iterator[str]:
    yield (
        f"Batches of {found['batch_size']} × {found['block_size']} ids at random places of the shards: "
        f"{found['loader'] / 1e6:.2f} M tokens/s from one thread. The smallest model here "
        f"(`configs/micro.yaml`) learns from {found['trainer']:,.0f} tokens/s on this machine: the loader gives "
        f"{found['loader'] / found['trainer']:.0f} times as many."
    )


def stages_table(found: Result) -> Iterator[str]:
    """What a terabyte takes, computed from the speed of one core."""
    megabytes, documents = found["text_bytes"] / 1e6, found["documents"]
    a_document = found["text_bytes"] / documents
    rows = [("read, clean, filter, fingerprint", "each piece alone", found["scan"]),
            ("compare and divide all documents", "one process", found["decide"]),
            ("tokenise, write shards", "each piece alone", found["tokenise"])]  # fmt: skip
    yield "| pass | by | MB/s of a core | 1 TB by one core | 1 TB by 100 workers |"
    yield "|:---|:---|--:|--:|--:|"
    total = 0.0
    for title, by, seconds in rows:
        whole = seconds / megabytes * 1e6  # seconds for 10**6 MB
        shared = whole / (100 if by == "each piece alone" else 1)
        total += shared
        yield f"| {title} | {by} | {megabytes / seconds:,.1f} | {duration(whole)} | {duration(shared)} |"
    yield f"| together | | | | {duration(total)} |"
    yield ""
    yield (
        f"Computed from {megabytes:,.0f} MB in {documents:,} documents of {a_document:,.0f} bytes on one core of this "
        "machine, on the assumption that time grows with size and disks and network keep up: 100 workers read "
        f"{100 * megabytes / found['scan']:,.0f} MB/s between them. To compare so many documents takes "
        f"{byte_size(1e12 / a_document * MEMORY_A_DOCUMENT)} of memory. No cluster of such a size was at hand."
    )


SECTIONS: dict[str, tuple[str, Callable[[Result], Iterator[str]]]] = {
    "throughput": ("Speed", throughput_table),
    "size": ("Memory and time by size", size_table),
    "kills": ("Killed on the way", kills_lines),
    "loader": ("The loader", loader_lines),
    "workers": ("Other workers, the same bytes", workers_table),
    "stages": ("A terabyte", stages_table),
}


def report(results: Result) -> str:
    """The section of docs/data.md, of the parts that are there."""
    loads = [results[part]["load"] for part in SECTIONS if part in results]
    machine = f"{results['machine']}; other work when a part began: load {min(loads):.1f} to {max(loads):.1f}"
    lines = [HEADING, f"By `python -m bench.data --write` on {machine}.", ""]
    for part, (title, table) in SECTIONS.items():
        if part in results:
            lines += [f"### {title}", "", *table(results[part]), ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--folder", type=Path, default=Path(tempfile.gettempdir()) / "nanogpt-bench-data", help="default: %(default)s")
    add(
        "--mirror", type=Path, required=True, help="folder with copies of the downloads, and tiktoken's cache tiktoken/"
    )
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all that is not there")
    add("--megabytes", type=int, default=500, help="of text; default: %(default)s")
    add("--small-megabytes", type=int, default=100, help="of what is done many times; default: %(default)s")
    add("--rounds", type=int, default=3, help="of throughput; default: %(default)s")
    add("--write", action="store_true", help="write the end of docs/data.md")
    given = parser.parse_args()
    folder, mirror = given.folder.absolute(), given.mirror.absolute()
    bench = Bench(folder, given.megabytes, given.small_megabytes, given.rounds, mirror)
    results_file = bench.folder / "results.json"
    results = durable.read_json(results_file) if results_file.is_file() else {}
    results["machine"] = this_machine()
    for part in given.parts:
        if part not in results:
            print(f"{part} ...", flush=True)
            load = os.getloadavg()[0]
            results[part] = {**PARTS[part](bench), "load": load}
            durable.write_json(results_file, results)
    text = report(results)
    print(text)
    if given.write:
        before = DOCUMENT.read_text(encoding="utf-8").split(HEADING)[0]
        durable.write_text(DOCUMENT, before + text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
