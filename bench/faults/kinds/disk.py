"""A disk that is full, or a folder that cannot be written or is gone: on small real file systems, by mounting them.

Quota is not among them: whoever may mount is root here, and no quota binds root.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil

from bench.faults.stage.finding import Finding, NotPossible, NotSurvived
from bench.faults.stage.injection import injecting
from bench.faults.stage.kind import Kind
from bench.faults.stage.process import Process, Result
from bench.faults.stage.scene import Scene
from bench.faults.stage.templates import CHECKPOINT_INTERVAL, HALF, MODEL
from nanogpt import durable

SIZE = 400 << 20  # bytes of the file system: what is said to suffice for a small model
ALMOST_FULL = 300 << 10  # bytes that are left: more than a step without large files writes
PAGE = 4096  # bytes: less no tmpfs can have
MEASURE = "configuration.measure"
WAITS = "the run waits until"
LONG_STEP = HALF + 3  # two before a checkpoint


@contextmanager
def on_a_small_disk(scene: Scene) -> Iterator[Hog]:
    """The workspace on an ext4 file system of its own, which a Hog can fill; afterwards, whatever happens in it, it
    lies where it was."""
    aside = scene.workspace.with_name(f"{scene.workspace.name}.aside")
    image = scene.workspace.with_name(f"{scene.workspace.name}.ext4")
    scene.workspace.rename(aside)
    scene.workspace.mkdir()
    try:
        _mount(scene.workspace, image, SIZE)
        shutil.copytree(aside, scene.workspace, symlinks=True, dirs_exist_ok=True)
    except (OSError, subprocess.CalledProcessError) as error:
        _take_place(aside, scene.workspace, image)
        raise NotPossible(f"no file system can be mounted ({error})") from error
    shutil.rmtree(aside)
    hog = Hog(scene.workspace)
    try:
        yield hog
    except BaseException:
        scene.close()  # what it has started must not write while it is copied back, to be looked at
        raise
    finally:
        hog.leave()
        shutil.copytree(scene.workspace, aside, symlinks=True, ignore=shutil.ignore_patterns("lost+found"))
        _take_place(aside, scene.workspace, image)


def _take_place(aside: Path, workspace: Path, image: Path) -> None:
    """`aside` becomes the workspace, in the place of the file system that may be mounted there."""
    if os.path.ismount(workspace):
        subprocess.run(["umount", "-l", workspace], check=True)
    shutil.rmtree(workspace)  # also what was made below the mount point
    aside.rename(workspace)
    image.unlink(missing_ok=True)


def _mount(folder: Path, image: Path, size: int) -> None:
    with open(image, "wb") as file:
        file.truncate(size)
    for command in (["mkfs.ext4", "-q", "-m", "0", str(image)], ["mount", "-o", "loop", str(image), str(folder)]):
        subprocess.run(command, check=True, capture_output=True)


class Hog:
    """Another program that fills the disk: once, or again and again, whatever is freed."""

    def __init__(self, folder: Path):
        self._file = folder / "of another program"
        self._has_enough = threading.Event()
        self._thread: threading.Thread | None = None

    def fill(self, all_but: int = 0) -> None:
        """Take what there is, and give `all_but` bytes of it back."""
        with open(self._file, "ab") as file:
            size = shutil.disk_usage(self._file.parent).free
            while size:
                try:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)
                    size = shutil.disk_usage(self._file.parent).free
                except OSError:  # the file system needs some of it for itself
                    size //= 2
            file.truncate(max(0, file.seek(0, os.SEEK_END) - all_but))

    def keep_full(self, enough: Callable[[], bool] = lambda: False) -> None:
        """Take whatever comes free, until it has `enough` or leaves."""
        self.fill()
        self._thread = threading.Thread(target=self._keep_filling, args=(enough,))
        self._thread.start()

    def leave(self) -> None:
        """Give all of it back."""
        self._has_enough.set()
        if self._thread:
            self._thread.join()
        self._file.unlink(missing_ok=True)

    def _keep_filling(self, enough: Callable[[], bool]) -> None:
        while not self._has_enough.wait(0.005) and not enough():
            self.fill()


# -- full --------------------------------------------------------------------------------------------------------


def fills_while_it_trains(scene: Scene) -> Finding:
    """Another program fills the file system (a small ext4) while it trains, and takes what comes free as long as there
    is a trainer."""
    with on_a_small_disk(scene) as hog:
        process = _start_in_a_step(scene)
        trainer = process.living_trainer()
        hog.keep_full(enough=lambda: _has_ended(trainer))
        process.wait_for(lambda: _waits(process) or not process.is_running, "the run to end, or to wait for room")
        hog.leave()
        scene.results.append(process.wait())
    row = scene.remedy("disk_full", "removed .* that this run could spare")
    return Finding(f"{row['symptom']}: {row['evidence']}", row["remedy"])


def stays_full_for_a_while(scene: Scene) -> Finding:
    """Another program fills the file system (a small ext4) while it trains, takes at once whatever the run frees, and
    gives it back when the run has begun to wait."""
    with on_a_small_disk(scene) as hog:
        process = _start_in_a_step(scene)
        _waits_for_the_hog(scene, process, hog)
    return _waited(scene, "training")


def full_while_the_text_is_read(scene: Scene) -> Finding:
    """The file system (a small ext4) is full as soon as phase 4, which cleans and tokenises the text, has begun."""
    with on_a_small_disk(scene) as hog:
        process = scene.start()
        process.wait_for(lambda: "4 Dataset" in process.output, "phase 4")
        _waits_for_the_hog(scene, process, hog)
    return _waited(scene)


def full_while_the_report_is_written(scene: Scene) -> Finding:
    """The file system (a small ext4) is full as soon as phase 8 draws the figures of the report."""
    with on_a_small_disk(scene) as hog:
        process = scene.start("--redo", "documentation.figures")
        process.wait_for(lambda: "Draw the figures ..." in process.output, "the figures")
        _waits_for_the_hog(scene, process, hog)
    return _waited(scene, "documentation")


def full_at_the_start(scene: Scene) -> Finding:
    """The file system (a small ext4) is full before the run starts again."""
    with on_a_small_disk(scene) as hog:
        hog.fill()
        _waits_for_the_hog(scene, scene.start(), hog)
    return _waited(scene)


def full_while_speed_is_measured(scene: Scene) -> Finding:
    """The file system (a small ext4) has 300 KiB left while phase 3 measures; its trial checkpoints find no room, and
    the training begins anew with what was measured after all."""
    with on_a_small_disk(scene) as hog:
        process = scene.start("--redo", MEASURE, "--redo", f"training.{MODEL}")
        process.wait_for(lambda: "Measure the speed" in process.output, "the measurement")
        hog.fill(all_but=ALMOST_FULL)
        _wait_for_the_wait(process)
        hog.leave()
        scene.results.append(process.wait())
    if taken := [row["evidence"] for row in scene.remedies() if row["symptom"] != "disk_full"]:
        raise NotSurvived(f"a full disk is taken for something else: {taken}")
    return _waited(scene, MEASURE)


def small_from_the_beginning(scene: Scene) -> Finding:
    """The whole file system (ext4) has 400 MiB, from the first phase on."""
    with on_a_small_disk(scene):
        size = shutil.disk_usage(scene.workspace).total
        scene.run()
        disk = next(row for row in durable.read_json(scene.state / "system.json")["checks"] if row["name"] == "disk")
    return Finding(f"disk of {size / 2**20:.0f} MiB: {disk['found']} are free, {disk['needed']} needed",
                   "none is needed: it asks for what this model takes")  # fmt: skip


def limit_of_file_size(scene: Scene) -> Finding:
    """`ulimit -f` (RLIMIT_FSIZE) below the size of a checkpoint's file; lifted when the run has begun to wait."""
    largest = max(file.stat().st_size for file in scene.newest_checkpoint().iterdir())
    process = scene.start()
    _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest * 3 // 4, most))
    _wait_for_the_wait(process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))
    scene.results.append(process.wait())
    scene.noticed(WAITS, "ulimit -f")
    return _waited(scene)


def log_takes_nothing(scene: Scene) -> Finding:
    """The action log lies on a file system of its own (a tmpfs of one page), which is full."""
    scene.log_file.touch()
    with _on_a_full_disk(scene.log_file):
        scene.run()
    return Finding(scene.noticed("No space left on device"), "the terminal says so, once; the run continues")


@contextmanager
def _on_a_full_disk(file: Path) -> Iterator[None]:
    """`file` is one that takes no byte more; afterwards it is as it was."""
    with tempfile.TemporaryDirectory() as disk:
        try:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", disk], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise NotPossible(f"no file system can be mounted ({error})") from error
        full = Path(disk) / file.name
        full.write_text(("before it was full\n" * PAGE)[:PAGE], encoding="ascii")
        try:
            subprocess.run(["mount", "--bind", full, file], check=True)
            try:
                yield
            finally:
                subprocess.run(["umount", "-l", file], check=True)
        finally:
            subprocess.run(["umount", "-l", disk], check=True)


def _start_in_a_step(scene: Scene) -> Process:
    """A start that has done steps, so that all files are open and room is held, and is in one that takes long: what
    comes next happens before the training's end, however slow the machine is."""
    begun = scene.workspace.with_name(f"{scene.workspace.name}.step")
    slow = {"what": "hang", "how": "asleep", "seconds": 3.0, "at": "step", "step": LONG_STEP, "counter": str(begun)}
    process = scene.start(env=injecting(slow))
    process.wait_for(begun.exists, f"step {LONG_STEP}")
    return process


def _wait_for_the_wait(process: Process) -> None:
    process.wait_for(lambda: _waits(process), "the run to wait for room")
    time.sleep(1.0)  # it looks in vain now and then


def _waits_for_the_hog(scene: Scene, process: Process, hog: Hog) -> None:
    hog.keep_full()
    _wait_for_the_wait(process)
    hog.leave()
    scene.results.append(process.wait())


def _waits(process: Process) -> bool:
    return WAITS in " ".join(process.output.split())


def _has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _waited(scene: Scene, step: str = "") -> Finding:
    row = scene.remedy("disk_full", "waited", step)
    return Finding(f"{row['symptom']}: {row['evidence']}", row["remedy"])


# -- not to be written -------------------------------------------------------------------------------------------


def may_not_be_written(scene: Scene) -> Finding:
    """The model's folder becomes immutable (chattr +i, which binds root, too) while it trains, and then as it was."""
    process = _start_in_a_step(scene)
    _chattr("+i", scene.model)
    try:
        result = process.wait()
    finally:
        _chattr("-i", scene.model)
    return _stopped_and_gone_on(scene, result, re.escape(MODEL))


def moved_away(scene: Scene) -> Finding:
    """The whole workspace is moved elsewhere while it trains, and back when the run has ended."""
    elsewhere = scene.workspace.with_name(f"{scene.workspace.name}.elsewhere")
    process = _start_in_a_step(scene)
    scene.workspace.rename(elsewhere)
    try:
        result = process.wait()
    finally:
        if not scene.workspace.exists():
            elsewhere.rename(scene.workspace)
    if elsewhere.exists():
        raise NotSurvived(f"made anew: {[str(path) for path in scene.workspace.rglob('*')]}; {result.output[-800:]}")
    return _stopped_and_gone_on(scene, result, "is gone")


def gone_before_a_checkpoint(scene: Scene) -> Finding:
    """The model's folder vanishes in the first session of its training, between two steps, before any checkpoint."""
    stopped = {"what": "hang", "how": "asleep", "seconds": 4.0, "at": "step", "step": CHECKPOINT_INTERVAL // 2,
               "counter": str(scene.workspace / "stopped")}  # fmt: skip
    process = scene.start(env=injecting(stopped))
    process.wait_for(lambda: scene.last_step() == CHECKPOINT_INTERVAL // 2 - 1, "the step before it")
    found = _vanishes(scene, process, scene.model)
    return replace(found, steps_lost=CHECKPOINT_INTERVAL // 2 - 1)  # their rows vanished, too


def gone_with_its_first(scene: Scene) -> Finding:
    """The folder of the checkpoints vanishes in the first session of a training, as soon as the first is written."""
    process = scene.start()
    process.wait_for(scene.checkpoints.exists, "the folder of the checkpoints")
    return _vanishes(scene, process, scene.checkpoints)


def _vanishes(scene: Scene, process: Process, folder: Path) -> Finding:
    """It may stop the run, with the reason in a line, or not."""
    folder.rename(scene.workspace.with_name(f"{scene.workspace.name}.vanished"))
    result = process.wait()
    if result.code != 0:
        return _stopped_and_gone_on(scene, result, "is gone", rf"/{re.escape(folder.name)}\b")
    scene.results.append(result)
    return Finding(scene.noticed(re.escape(folder.name), "gone|missing|No such file"), "the run continues")


def unmounted(scene: Scene) -> Finding:
    """The file system of the workspace is unmounted (umount -l) while it trains, and mounted again afterwards."""
    with on_a_small_disk(scene):
        below = scene.workspace.with_name(f"{scene.workspace.name}.below")
        below.mkdir()
        subprocess.run(["mount", "--bind", scene.workspace, below], check=True)  # so that it outlives its unmounting
        try:
            process = _start_in_a_step(scene)
            subprocess.run(["umount", "-l", scene.workspace], check=True)
            result = process.wait()
            left = [str(path) for path in scene.workspace.rglob("*")]
        finally:
            if not os.path.ismount(scene.workspace):
                subprocess.run(["mount", "--bind", below, scene.workspace], check=True)
            subprocess.run(["umount", "-l", below], check=True)
            below.rmdir()
        if left:
            raise NotSurvived(f"made anew below the mount point: {left}; {result.output[-800:]}")
        return _stopped_and_gone_on(scene, result, "is gone")


def _chattr(change: str, folder: Path) -> None:
    subprocess.run(["chattr", change, folder], check=True, capture_output=True)


def can_be_immutable() -> bool:
    """Whether folders can be made immutable here: root, on ext4, xfs or btrfs."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            _chattr("+i", Path(folder))
        except (OSError, subprocess.CalledProcessError):
            return False
        _chattr("-i", Path(folder))
    return True


def _stopped_and_gone_on(scene: Scene, result: Result, *words: str) -> Finding:
    """It must have ended with 1, the reason in a line and no traceback; then the same command continues."""
    errors = [line for line in result.output.splitlines() if line.startswith("error: ")]
    if result.code != 1 or len(errors) != 1 or "Traceback" in result.output:
        raise NotSurvived(f"exit code {result.code} instead of 1 and a line: {result.output[-1500:]}")
    if not all(re.search(word, errors[0]) for word in words):
        raise NotSurvived(f"the reason should name {words}: {errors[0]}")
    scene.results.append(result)
    scene.run()
    return Finding(errors[0], "it stops with the reason; the same command continues")


KINDS = [
    Kind("workspace moved away while it trains", "disk", moved_away),
    Kind("model's folder gone before its first checkpoint", "disk", gone_before_a_checkpoint, small=False,
         template="fresh"),
    Kind("checkpoints' folder gone with the first", "disk", gone_with_its_first, small=False, template="fresh"),
]  # fmt: skip
if hasattr(resource, "prlimit"):
    KINDS.append(Kind("limit on the size of files", "disk", limit_of_file_size, small=False))
if sys.platform == "linux" and os.geteuid() == 0:  # who else may not mount
    KINDS += [
        Kind("log on a full disk", "disk", log_takes_nothing, template="whole"),
        Kind("disk fills while it trains", "disk", fills_while_it_trains),
        Kind("disk full while speed is measured", "disk", full_while_speed_is_measured, template="whole",
             small=False),
        Kind("disk of 400 MiB", "disk", small_from_the_beginning, small=False, template="fresh"),
        Kind("disk stays full for a while", "disk", stays_full_for_a_while, small=False),
        Kind("disk full while the text is tokenised", "disk", full_while_the_text_is_read, small=False,
             template="fresh"),
        Kind("disk full while the report is drawn", "disk", full_while_the_report_is_written, template="whole",
             small=False),
        Kind("disk full at the start", "disk", full_at_the_start, template="whole"),
        Kind("file system unmounted while it trains", "disk", unmounted, small=False),
    ]  # fmt: skip
if can_be_immutable():
    KINDS.append(Kind("model's folder read-only while it trains", "disk", may_not_be_written, small=False))
