"""All kinds of fault, two at a time: each in its own copy of a run, judged, and reported in a line."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from bench.faults.stage.finding import NotPossible, NotSurvived
from bench.faults.stage.kind import Kind
from bench.faults.stage.process import Interrupted, Patience
from bench.faults.stage.scene import Scene
from bench.faults.stage.template_making import TemplateMaker
from bench.faults.stage.templates import Templates
from bench.faults.stage.verdict import judge

TableRow = dict[str, Any]  # of docs/faults.json


class Campaign:
    """A folder with templates, and scenes made from them. The scene of a kind that was not survived is kept."""

    def __init__(self, folder: Path, small: bool = False, tell: Callable[[str], None] = print):
        self.small, self.tell, self.interrupted = small, tell, threading.Event()
        self.templates = Templates(folder)
        self._maker = TemplateMaker(self.templates, self.interrupted, tell)
        self._maker.make("whole")

    @contextmanager
    def scene(self, template: str, name: str, seconds: float = 300.0) -> Iterator[Scene]:
        """A private copy of a template's workspace: ended, and removed unless what is done in it fails."""
        reference = self._maker.make(template)
        workspace = self.templates.folder / "scenes" / f"{_file_name(name)}-{os.getpid()}-{threading.get_ident()}"
        shutil.copytree(self.templates.workspace(template), workspace, symlinks=True)
        scene = Scene(self.templates, workspace, reference, Patience(seconds, self.interrupted), template,
                      self.small)  # fmt: skip
        with closing(scene):
            yield scene
        scene.remove()

    def row(self, kind: Kind) -> TableRow:
        """Inflict a kind and judge what comes of it: its row of the table. `survived` is False with `why`, in words."""
        row: TableRow = {"name": kind.name, "group": kind.group, "made": kind.made}
        began = time.monotonic()
        try:
            with self.scene(kind.template, kind.name, kind.seconds) as scene:
                began = time.monotonic()  # its template may have had to be made
                row["look"] = scene.to_look()
                found = kind.inflict(scene)
                verdict = judge(scene, kind.exact)
                seconds = scene.seconds_lost() if found.seconds_lost is None else found.seconds_lost
                steps = scene.steps_lost() if found.steps_lost is None else found.steps_lost
                noticed = found.noticed.replace(f"{scene.workspace}/", "")
        except (Interrupted, NotPossible):
            raise
        except Exception as error:  # whatever went wrong is this kind's result; the others continue
            why = str(error) if isinstance(error, NotSurvived) else f"{type(error).__name__}: {error}"
            return {**row, "survived": False, "why": why, "seconds": round(time.monotonic() - began, 1)}
        del row["look"]
        return {
            **row, "survived": True, "times": found.times, "noticed": noticed, "remedy": found.remedy,
            "result": "; ".join(filter(None, [found.result, verdict])), "seconds_lost": round(seconds, 1),
            "steps_lost": steps, "seconds": round(time.monotonic() - began, 1),
        }  # fmt: skip

    def rows(self, kinds: list[Kind], jobs: int) -> list[TableRow]:
        """A row for each kind that can be inflicted here, in their order; Ctrl-C ends them all."""
        done: list[TableRow] = []

        def work(kind: Kind) -> TableRow | None:
            try:
                row = self.row(kind)
            except NotPossible as why:
                self.tell(f"        not possible here: {kind.group}: {kind.name}: {why}")
                return None
            done.append(row)
            self.tell(line(row, len(done), len(kinds)))
            return row

        with ThreadPoolExecutor(jobs) as threads:
            rows = [threads.submit(work, kind) for kind in kinds]
            try:
                return [row for future in rows if (row := future.result()) is not None]
            except BaseException:
                self.interrupted.set()
                threads.shutdown(wait=True, cancel_futures=True)
                raise


def line(row: TableRow, number: int, of: int) -> str:
    """A row as the terminal shows it."""
    verdict = "ok  " if row["survived"] else "LOST"
    head = f"{number:3}/{of} {verdict} {row['seconds']:5.1f} s  {row['group']}: {row['name']}"
    if not row["survived"]:
        return f"{head}\n        {row['why']}\n        to look: {row.get('look', 'no scene')}"
    return f"{head}: {row['result']}, {row['steps_lost']} steps lost"


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)[:60]
