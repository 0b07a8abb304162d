"""What is learned from: rotten while it is learned from, a person's text that vanishes, downloads that go wrong."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import psutil

from bench.faults.kinds.mirror import Answer, Mirror, mirror
from bench.faults.stage.finding import Finding, NotPossible, NotSurvived
from bench.faults.stage.injection import injecting
from bench.faults.stage.kind import Kind
from bench.faults.stage.process import Process
from bench.faults.stage.scene import Scene
from bench.faults.stage.templates import shared_data
from nanogpt import durable
from nanogpt.sources import catalogue

STEP = 105  # beyond where the half run stands, between two checkpoints
HEADER = 64  # bytes of a shard before its ids
FETCHED = "Fetch and verify the text: done"
PLAY = catalogue.TINY_SHAKESPEARE


# -- while it is learned from ----------------------------------------------------------------------------------------


def rotting(scene: Scene, damage: Callable[[Path], None], *words: str) -> Finding:
    """Stop the trainer at a step (SIGSTOP), damage what it learns from, and let it continue (SIGCONT)."""
    stop = {"what": "signal", "signal": "SIGSTOP", "step": STEP, "counter": str(scene.workspace / "stopped")}
    process = scene.start(env=injecting(stop))
    process.wait_for(lambda: _is_stopped(process), f"step {STEP}")
    damage(scene.data / "char")
    process.living_trainer().resume()
    scene.results.append(process.wait())
    row = scene.remedy("corrupt_file", "made again", *words)
    return Finding(scene.noticed(*words), row["remedy"])


def _is_stopped(process: Process) -> bool:
    trainer = process.trainer
    return trainer is not None and trainer.status() == psutil.STATUS_STOPPED


def other_ids(scene: Scene) -> Finding:
    """Every id of the training text becomes another of the vocabulary while it is learned from: nothing fails."""
    return rotting(scene, lambda data: _change_ids(data / "train.bin", lambda id: id // 2), "train.bin")


def ids_beyond(scene: Scene) -> Finding:
    """Every id of the training text becomes one that the vocabulary has not, while it is learned from."""
    return rotting(scene, lambda data: _change_ids(data / "train.bin", lambda id: 60_000), "train.bin")


def cut_short(scene: Scene) -> Finding:
    """The training text's token file is cut to its header while it is mapped into memory: SIGBUS."""
    return rotting(scene, lambda data: os.truncate(data / "train.bin", HEADER), "train.bin", "short")


def folder_gone(scene: Scene) -> Finding:
    """Every file of the token folder is deleted while it is learned from."""
    return rotting(scene, _emptied, "missing")


def _emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def evaluated_rotten(scene: Scene) -> Finding:
    """The validation tokens and the text's three splits are zeroed while the model is trained: zeros would choose
    the best weights, and the evaluation reads the texts."""

    def zero(data: Path) -> None:
        _change_ids(data / "val.bin", lambda id: 0)
        for split in ("train", "val", "test"):
            text = data.parent / "text" / f"{split}.txt"
            text.write_bytes(bytes(text.stat().st_size))

    return rotting(scene, zero, r"val\.bin|text/.*txt")


def _change_ids(file: Path, change: Callable[[int], int]) -> None:
    """In place: the trainer's map of the file shows it."""
    content = bytearray(file.read_bytes())
    for at in range(HEADER, len(content), 2):
        content[at : at + 2] = change(int.from_bytes(content[at : at + 2], "little")).to_bytes(2, "little")
    with open(file, "r+b") as opened:
        opened.write(content)


def own_text_gone(scene: Scene) -> Finding:
    """A person's text is moved away between two starts, and put back after the refusal."""
    text = scene.workspace / "own.txt"
    text.write_bytes(scene.text.read_bytes())
    scene.run("--data", str(text))
    away = text.rename(scene.workspace / "moved.txt")
    refused = scene.run("--data", str(text), code=2)
    if "own.txt" not in refused.output:
        raise NotSurvived(f"the refusal does not name the text: {refused.output}")
    away.rename(text)
    scene.run("--data", str(text))
    return Finding(refused.output.strip().splitlines()[-1], "exit code 2; put back, the same command continues")


# -- downloads -------------------------------------------------------------------------------------------------------


def content() -> bytes:
    """Tiny Shakespeare, from a copy at hand: only the right bytes are ever believed. Raises NotPossible without one."""
    shared = shared_data()
    if shared is None:
        raise NotPossible(f"no copy of {PLAY.file} to serve (../shared/data, or the folder NANOGPT_TEST_DATA)")
    return (shared / PLAY.file).read_bytes()


def fetching(*places: str) -> list[str]:
    """The command's options for a second run, of the dataset phase alone, that downloads from `places`."""
    mirrors = f"data.mirror={','.join(places)}"
    return ["--run", "fetched", "--data", PLAY.name, "--set", mirrors, "--only", "dataset"]


def downloaded(scene: Scene, served: Mirror, *words: str, remedy: str, resumed: bool) -> Finding:
    """Raises NotSurvived when it is not the right file, or was begun anew without need."""
    file = scene.workspace / "data/downloads" / PLAY.file
    if not file.is_file() or durable.sha256_file(file) != PLAY.sha256:
        raise NotSurvived(f"{file} is not {PLAY.name}; asked for: {served.asked}")
    if resumed and not any(served.asked):
        raise NotSurvived(f"what had arrived was asked for again: {served.asked}")
    ranges = ", ".join(asked or "the whole" for asked in served.asked)
    return Finding(scene.noticed(*words), f"{remedy} (asked for: {ranges})", steps_lost=0)


def answers(scene: Scene, given: list[Answer], *words: str, remedy: str, resumed: bool = False) -> Finding:
    """Download from a server that answers so, one request after the other."""
    with mirror(content(), *given) as served:
        scene.run(*fetching(served.url))
        return downloaded(scene, served, *words, remedy=remedy, resumed=resumed)


def cut_off(scene: Scene) -> Finding:
    """400 kB a second until the connection breaks off at byte 300,000, then another time at byte 700,000."""
    return answers(scene, [Answer(until=300_000, per_second=400_000), Answer(until=700_000), Answer()],
                   "cut off after", remedy="the rest asked for", resumed=True)  # fmt: skip


def wrong_bytes(scene: Scene) -> Finding:
    """The server answers 503, then sends other bytes of the same number, then the right ones."""
    return answers(scene, [Answer(503), Answer(wrong=True), Answer()], "wrong bytes", remedy="asked again")


def without_ranges(scene: Scene) -> Finding:
    """The connection breaks off, and the server does not know of ranges."""
    return answers(scene, [Answer(until=300_000), Answer(ranges=False)], "cut off after", remedy="begun anew",
                   resumed=True)  # fmt: skip


def mixed(scene: Scene) -> Finding:
    """Wrong bytes until the connection breaks off, then the right rest: only the whole file's sha256 shows it."""
    return answers(scene, [Answer(wrong=True, until=300_000), Answer()], "wrong bytes",
                   remedy="dropped whole, begun anew", resumed=True)  # fmt: skip


def next_mirror(scene: Scene) -> Finding:
    """The first mirror breaks off each time, the second is whole."""
    with mirror(content(), Answer(until=300_000)) as broken, mirror(content(), Answer()) as whole:
        scene.run(*fetching(broken.url, whole.url))
        return downloaded(scene, whole, "cut off after .*3 times", remedy="the rest from the next mirror", resumed=True)


def killed(scene: Scene) -> Finding:
    """The run is killed (kill -9) in the middle of the download, and started again."""
    with mirror(content(), Answer(waits=threading.Event()), Answer()) as served:
        part = scene.workspace / "data/downloads" / f"{PLAY.file}.part"
        process = scene.start(*fetching(served.url))
        process.wait_for(lambda: part.is_file() and part.stat().st_size > len(content()) // 3, "half of the file")
        process.kill()
        scene.run(*fetching(served.url))
        return downloaded(scene, served, FETCHED, remedy="the rest asked for", resumed=True)


def nobody(scene: Scene) -> Finding:
    """No mirror has it, and a proxy that nobody listens at takes the network away: the next source."""
    with mirror(b"", Answer(404)) as served:
        scene.run(*fetching(served.url), env={"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": ""})
    return Finding(scene.noticed("could not be obtained"), "learns from the embedded corpus, and says so", steps_lost=0)


DURING_TRAINING = {
    "other ids": other_ids, "ids beyond the vocabulary": ids_beyond, "tokens cut short": cut_short,
    "what is evaluated zeroed": evaluated_rotten, "token folder emptied": folder_gone,
}  # fmt: skip
DOWNLOADS = {
    "slow, then cut off": cut_off, "unavailable, then wrong bytes": wrong_bytes, "without ranges": without_ranges,
    "wrong beginning": mixed, "next mirror": next_mirror, "killed": killed, "nobody answers": nobody,
}  # fmt: skip
KINDS = [Kind(f"during training: {name}", "data", inflict, small=inflict is other_ids)
         for name, inflict in DURING_TRAINING.items()]  # fmt: skip
KINDS += [Kind("a person's text vanishes", "data", own_text_gone)]
KINDS += [Kind(f"download: {name}", "data", inflict, template="whole", small=inflict is nobody)
          for name, inflict in DOWNLOADS.items()]  # fmt: skip
