"""Where a kind of fault is inflicted: a private copy of a run, the real command on it, and questions about it.

Templates (Kind.template) that a scene is a copy of:
    "half"   a finished run of which the training was begun anew (--redo) and stopped by Ctrl-C at step 75: checkpoints
             at 40, 60 and 75, best/ and before-cooldown. The same command continues with it in about 6 s of one core,
             for what comes after the training is kept when the weights are the same again.
    "whole"  a finished run. The same command keeps everything (1 s); with --redo STEP it does one step again, with
             --redo training.tiny the whole training (6 s), with --redo implementation.checks phase 2, and so on.
    "fresh"  nothing. A whole run (25 s of one core): for what must be seen from the beginning.
In "half" and "whole" there is also checkpoints/neighbour/tiny, the model of another run, which no remedy may touch.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.faults.stage.finding import NotSurvived
from bench.faults.stage.process import Patience, Process, Result, environment_of, free_port, is_server, marked, words_of
from bench.faults.stage.templates import MODEL, Reference, Row, Templates, rows_of
from flows.context.paths import CHECKOUT
from nanogpt import durable
from nanogpt.training.record.metrics import read_rows

RUN = "default"
NO_CLOCK = ("--budget", "15m")  # steps end the training, not time, however often it is killed


class Scene:
    """A workspace with the command that works in it, and what became of it."""

    def __init__(
        self, templates: Templates, workspace: Path, reference: Reference, patience: Patience | None = None,
        template: str = "half", small: bool = False,
    ):  # fmt: skip
        self.workspace, self.reference, self.template = workspace, reference, template
        self.small = small  # a kind with many variants takes one of them
        self._templates = templates
        self.text, self.config = templates.text, templates.config  # shared: copy before damaging, and say so (--data)
        self.model = workspace / "checkpoints" / RUN / MODEL
        self.checkpoints = self.model / "checkpoints"
        self.state = workspace / "state" / RUN
        self.markers = self.state / "markers"
        self.data = workspace / "data" / RUN
        self.counter = workspace.with_name(f"{workspace.name}.counter")  # of an injected fault: how often it came
        self.log_file = workspace / "logs" / RUN / "automation_log.txt"
        self.results: list[Result] = []  # of the starts that have ended
        self._patience = patience or Patience(600.0)
        self._started: list[Process] = []
        self._port: int | None = None
        self.begin()

    def begin(self) -> None:
        """From now on counts what happens: starts, their results, what the log and the events say."""
        self._before: list[tuple[int, int]] = []  # at each start: the last step done, and the number of events
        self._log_began = len(_text_of(self.log_file))
        self._events_began = len(self._all_events())

    def again(self) -> None:
        """Begin anew with the template: for a kind with several variants, each on a run of its own."""
        shutil.rmtree(self.workspace)
        shutil.copytree(self._templates.workspace(self.template), self.workspace, symlinks=True)
        self.results.clear()
        self.begin()

    # -- the command ---------------------------------------------------------------------------------------------

    def command(self, *arguments: str, ui: bool = False) -> list[str]:
        """The real command: no pages unless `ui`, no commits, none of the project's tests. Later arguments win."""
        pages = ["--set", f"port={self.port}"] if ui else ["--no-ui"]
        return [
            sys.executable, "-m", "flows.full_run", "--no-bootstrap", *pages, "--workspace", str(self.workspace),
            "--config", str(self.config), "--data", str(self.text), "--budget", "3m", "--set", "tests=false",
            "--set", "milestones=false", *arguments,
        ]  # fmt: skip

    def start(
        self, *arguments: str, ui: bool = False, env: Mapping[str, str] | None = None,
        limits: Mapping[str, int] | None = None, cwd: Path = CHECKOUT,
    ) -> Process:  # fmt: skip
        """Start the command; `env` is added to its environment, `limits`: {"RLIMIT_FSIZE": bytes, ...}."""
        self._before.append((self.last_step(), len(self._all_events())))
        output = self.workspace.with_name(f"{self.workspace.name}.{len(self._started) + 1}.out")
        process = Process(
            self.command(*arguments, ui=ui), environment_of(str(self.workspace), env or {}), output, self._patience,
            limits, cwd,
        )  # fmt: skip
        self._started.append(process)
        return process

    def run(
        self, *arguments: str, code: int | None = 0, ui: bool = False, env: Mapping[str, str] | None = None,
        limits: Mapping[str, int] | None = None, cwd: Path = CHECKOUT,
    ) -> Result:  # fmt: skip
        """Start the command and wait for its end. Raises NotSurvived unless it ends with `code` (None: with any)."""
        result = self.start(*arguments, ui=ui, env=env, limits=limits, cwd=cwd).wait()
        self.results.append(result)
        if code is not None and result.code != code:
            raise NotSurvived(f"exit code {result.code} instead of {code}; its last words: {result.output[-1500:]}")
        return result

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Until `condition()` is true, whether or not a command runs."""
        while not condition():
            self._patience.wait_a_moment(what)

    def let_pass(self, seconds: float) -> None:
        """Wait so long."""
        until = time.monotonic() + seconds
        self.wait_until(lambda: time.monotonic() >= until, f"{seconds} s")

    @property
    def port(self) -> int:
        """A port of this scene's own for its pages."""
        if self._port is None:
            self._port = free_port()
        return self._port

    # -- what it left --------------------------------------------------------------------------------------------

    def final_sha256(self) -> str:
        """Of the final weights' file."""
        return durable.sha256_file(self.model / "final/model.safetensors")

    def best_sha256(self) -> str:
        """Of the weights that were best on the validation split."""
        return durable.sha256_file(self.model / "best/model.safetensors")

    def metrics(self) -> list[Row]:
        """The rows of metrics.jsonl."""
        return rows_of(self.model)

    def last_step(self) -> int:
        """The last step that is known to have been done."""
        steps = [row["step"] for row in self.metrics() if row.get("kind") == "train"]  # a bit may have flipped
        return max(steps, default=0)

    def checkpoint_steps(self) -> list[int]:
        """The steps of the checkpoints, oldest first."""
        return sorted(int(path.name[5:]) for path in self.checkpoints.glob("step-*") if path.name[5:].isdigit())

    def newest_checkpoint(self) -> Path:
        return self.checkpoints / f"step-{self.checkpoint_steps()[-1]:08d}"

    def events(self, name: str | None = None) -> list[Row]:
        """The rows of events.jsonl since the scene began, or those of a name."""
        return [row for row in self._all_events()[self._events_began :] if name in (None, row["event"])]

    def log(self) -> str:
        """The action log since the scene began."""
        return _text_of(self.log_file)[self._log_began :]

    def output(self) -> str:
        """What every start in this scene has printed."""
        return "\n".join(process.output for process in self._started)

    def report_text(self) -> str:
        """The report as people read it."""
        return (self.workspace / "reports" / RUN / "training_report.md").read_text(encoding="utf-8")

    def remedies(self) -> list[Row]:
        """The rows of the report's table of remedies: when, step, symptom, evidence, remedy, outcome, cost_seconds,
        steps_lost. Those of the template are not among them: it has none."""
        rows: list[Row] = durable.read_json(self.workspace / "reports" / RUN / "facts.json")["remedies"]
        return rows

    def noticed(self, *words: str) -> str:
        """The line in which the run reports the fault: the first with all `words` (regular expressions, in any case)
        in the report's remedies, the action log, the terminal, the trainer's events and its log. Raises NotSurvived."""
        remedies = [f"{row['step']}: {row['symptom']}: {row['evidence']}" for row in self.remedies()]
        events = [f"{row['event']}: {row['message']}" for row in self.events()]
        trainer = _text_of(self.log_file.with_name(f"{MODEL}.log"))
        lines = [*remedies, *self.log().splitlines(), *self.output().splitlines(), *events, *trainer.splitlines()]
        for line in lines:  # without the workspace's path, which has the kind's name in it
            said = line.replace(f"{self.workspace}/", "").replace(str(self.workspace), "")
            if all(re.search(word, said, re.IGNORECASE) for word in words):
                return _without_time(said)
        raise NotSurvived(f"nothing was said with {' and '.join(words)}; the log has:\n{self.log()[-1500:]}")

    def remedy(self, *words: str) -> Row:
        """The row of the report's table of remedies that has all `words`. Raises NotSurvived without one."""
        for row in self.remedies():
            text = " ".join(str(value) for value in row.values())
            if all(re.search(word, text, re.IGNORECASE) for word in words):
                return row
        raise NotSurvived(f"the report has no remedy with {' and '.join(words)}, but {self.remedies()}")

    def steps_lost(self) -> int:
        """Steps that were done again: between the starts of this scene, and within them by the remedies."""
        others = [row for row in self.remedies() if row["symptom"] != "interrupted"]  # those are below
        lost: int = sum(row["steps_lost"] for row in others)
        events = self._all_events()
        for number, (reached, first) in enumerate(self._before):
            last = self._before[number + 1][1] if number + 1 < len(self._before) else len(events)
            begun = [row["step"] for row in events[first:last] if row["event"] in ("resumed", "started")]
            lost += max(0, reached - begun[0]) if begun else 0
        return lost

    def seconds_lost(self) -> float:
        """How much longer all starts together took than the undisturbed one from the same template."""
        taken = sum(result.seconds for result in self.results)
        return max(0.0, taken - self.reference.seconds.get(self.template, 0.0))

    # -- the end -------------------------------------------------------------------------------------------------

    def left_over(self) -> list[str]:
        """Processes of this scene that live though every command has ended; the server for pages is not counted."""
        return [words_of(process) for process in marked(str(self.workspace)) if not is_server(process)]

    def close(self) -> None:
        """End every process of this scene."""
        home = self.workspace / "state/.prefect"
        if home.exists():
            stop = [sys.executable, "-m", "flows.prefect_server", "stop", str(home)]
            subprocess.run(stop, cwd=CHECKOUT, check=False, capture_output=True, timeout=60)
        for process in marked(str(self.workspace)):
            process.kill()
        for command in self._started:
            command.end()

    def remove(self) -> None:
        """Take the workspace away."""
        for path in self.workspace.parent.glob(f"{self.workspace.name}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def to_look(self) -> str:
        """The command that continues the run, for a person who looks for the cause."""
        return shlex.join(self.command())

    def _all_events(self) -> list[Row]:
        return list(read_rows(self.model / "events.jsonl"))


def _text_of(file: Path) -> str:
    return file.read_text("utf-8", "replace") if file.is_file() else ""


def _without_time(line: str) -> str:
    """A line of the action log or the terminal as it is said."""
    return re.sub(r"^\s*(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d(\.\d+)? ?(INFO|WARNING|ERROR)? *", "", line).strip()
