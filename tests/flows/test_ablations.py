"""python -m flows.ablations: killed and continued, on a Dask cluster, under a budget, and what a person mistypes."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from flows import ablations
from flows.cli import ablation_options
from flows.context.paths import CHECKOUT
from flows.phases.ablations import KERNELS, PLAN, TABLE, AblationPlan, Study, ablation
from flows.runner.assembly import assemble
from flows.runner.run import Run
from flows.runner.sessions import SessionRecord
from nanogpt import durable
from nanogpt.faults import UserError
from nanogpt.records import to_json
from nanogpt.results.ablations import Ablation, KernelTimes
from nanogpt.study.variants import CONTROL, chosen
from tests.flows.small_model import SMALL, english

STEPS = 12
NAMES = ["control", "no-mask", "relu"]


@pytest.fixture
def asked(tmp_path) -> list[str]:
    """A small control and a small text."""
    (tmp_path / "small.yaml").write_text(SMALL)
    (tmp_path / "text.txt").write_text(english()[:30_000])
    return ["--workspace", str(tmp_path / "workspace"), "--config", str(tmp_path / "small.yaml"),
            "--data", str(tmp_path / "text.txt"), "--only", "no-mask,relu"]  # fmt: skip


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "flows.ablations", "--no-bootstrap", "--no-ui", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)}
    return subprocess.Popen(command, cwd=CHECKOUT, env=environment, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)  # fmt: skip


def done(*arguments: str) -> str:
    process = start(*arguments)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def losses(workspace: Path) -> dict[tuple[str, int], float]:
    record = json.loads((workspace / "reports/ablations/ablations.json").read_text())
    return {(training["variant"], training["seed"]): training["val_loss"] for training in record["trainings"]}


@pytest.mark.slow
def test_killed_and_continued_and_on_a_cluster_they_come_to_the_same(asked, tmp_path):
    workspace = tmp_path / "workspace"
    arguments = [*asked, "--seeds", "1", "--steps", str(STEPS)]
    marker = workspace / "state/ablations/markers/ablations.control-1.json"
    process = start(*arguments)
    for _ in range(3000):
        if marker.exists() and json.loads(marker.read_text())["state"] == "finished":
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = marker.read_bytes()

    output = done(*arguments)
    assert marker.read_bytes() == before, "a training that had finished was made again"
    assert output.count(", seed 1: ") == len(NAMES)
    assert set(losses(workspace)) == {(name, 1) for name in NAMES}
    table = (workspace / "reports/ablations/ablations.md").read_text()
    assert all(line in output for line in json.loads(
        (workspace / "reports/ablations/ablations.json").read_text())["table"]["findings"])  # fmt: skip
    assert "| no causal mask |" in table and "figures/ablations.svg" in table
    assert (workspace / "reports/ablations/figures/ablations.svg").read_bytes().startswith(b"<?xml")

    elsewhere = [str(tmp_path / "cluster") if word == str(workspace) else word for word in arguments]
    done(*elsewhere, "--task-runner", "dask", "--workers", "2")
    assert losses(tmp_path / "cluster") == losses(workspace)


# ---- in this process, with a worker that stands in


class Worker:
    """Answers as the library would, without training; `spent` seconds of the budget go by with each training."""

    def __init__(self, run: Run, spent: float = 0.0, failing: str = ""):
        self.run, self.spent, self.failing, self.total = run, spent, failing, 0.0

    def call(self, target, *, timeout, **arguments):
        assert 0 < timeout <= 3600
        function = target.partition(":")[2]
        if function == "seconds_for_steps":
            return 0.1, 0.5
        if function == "compare_kernels":
            return [KernelTimes(64, 4096, 1.0, 2.0, 1e-6)]
        if function == "ablations_plot":
            arguments["path"].parent.mkdir(parents=True, exist_ok=True)
            return arguments["path"].write_text("<svg/>")
        self.total += self.spent
        self.run.clock.take_over(self.total)
        if arguments["name"] == self.failing:
            raise RuntimeError("its process was killed")
        loss = 2.0 + 0.01 * arguments["seed"] + 0.1 * NAMES.index(arguments["name"])
        return Ablation(arguments["name"], arguments["seed"], arguments["steps"], 1000, loss, loss, loss, [(1, loss)],
                        None, 1.0, 1e4, "cpu", "float32", 1)  # fmt: skip

    def close(self, kill: bool = False) -> None: ...


def assembled(asked: list[str], *more: str, **worker) -> Run:
    options = ablation_options.parse([*asked, *more])
    study = Study(options.control, [CONTROL, *chosen(options.only, options.control)], options.seeds, options.steps,
                  ablations.CHARACTERS)  # fmt: skip
    run = assemble(options.run, (ablations.text_as(ablations.CHARACTERS), *ablations.ablations.phases(study)))
    run.session.begin()
    return replace(run, worker=Worker(run, **worker))


def statuses(run: Run) -> list[str]:
    return [record.status for record in run.phase_runner.records]


def test_the_budget_decides_how_long_each_training_is(asked):
    run = assembled(asked, "--budget", "2m", "--seeds", "2")
    ablations.do_phases(run)
    assert statuses(run) == ["done"] * 3
    # 0.8 of what is left of 120 s, less 15, in 6 trainings: 13.5 s, of which 0.5 to judge it and 0.1 a step
    assert 110 <= run.facts(PLAN).steps <= 130
    assert {run.facts(ablation(name, seed)).steps for name in NAMES for seed in (1, 2)} == {run.facts(PLAN).steps}
    assert [row.verdict for row in run.facts(TABLE).rows] == ["control", "worse", "worse"]
    with pytest.raises(UserError, match=r"too little for 30 trainings of 30 steps; give --budget \d+m, fewer"):
        ablations.do_phases(assembled(asked, "--run", "short", "--budget", "1m", "--seeds", "10"))


def test_what_does_not_fit_is_left_out_later_seeds_first_and_the_same_command_makes_it(asked):
    run = assembled(asked, "--budget", "2m", "--steps", "50", "--seeds", "3", spent=22)
    ablations.do_phases(run)
    table = run.facts(TABLE)
    assert [len(row.losses) for row in table.rows] == [2, 1, 1]
    assert table.missing == [f"{name}-{seed}" for seed in (2, 3) for name in NAMES][1:]
    assert "Not made: no-mask-2" in (run.paths.reports / "ablations.md").read_text()
    run.session.end(stopped=False)

    again = assembled(asked, "--budget", "2m", "--steps", "50", "--seeds", "3")
    ablations.do_phases(again)
    assert [len(row.losses) for row in again.facts(TABLE).rows] == [3, 3, 3]
    kept = [record.name for record in again.step_runner.records("ablations") if record.state == "kept"]
    assert kept == [PLAN.step, KERNELS.step, *(ablation(*key).step for key in
                    [("control", 1), ("no-mask", 1), ("relu", 1), ("control", 2)])]  # fmt: skip


def test_a_training_that_fails_costs_its_row_and_the_exit_code(asked):
    run = assembled(asked, "--steps", "50", failing="no-mask")
    ablations.do_phases(run)
    assert statuses(run) == ["done", "failed", "done"]
    assert [row.variant for row in run.facts(TABLE).rows] == ["control", "relu"]
    words = "\n".join(ablations.ablations.last_words(run))
    assert "2 Ablations failed: 3 of 9 trainings failed: its process was killed" in words
    assert "continue with:\n  python3 -m flows.ablations" in words
    assert run.facts(PLAN) == AblationPlan(50, 5.5, 0.1)


@pytest.mark.fast
@pytest.mark.parametrize("words, mistake", [
    ("--only no-maks", '--only no-maks: no such ablation (did you mean "no-mask"?)'),
    ("--only swiglu", "--only swiglu: that is what the control, micro, has already"),
    ("--seeds 0", "argument --seeds: found '0', expected a whole number from 1 to 10"),
    ("--steps many", "argument --steps: found 'many', expected a whole number from 1 to 1,000,000"),
    ("--task-runner spark", "--task-runner spark: found neither of local, dask"),
    ("--workers 2", "--workers: is for --task-runner dask"),
    ("--task-runner dask --workers 2 --dask-address 127.0.0.1:1", "--workers, --dask-address: give one of them"),
    ("--budget 5", "--budget: found 5, the shortest budget is 60s"),
    ("--redo ablations.no-mask", "--redo ablations.no-mask: no such step (did you mean"),
    ("--config nowhere.yaml", "nowhere.yaml"),
    ("--seed 3", 'unrecognized arguments: --seed 3 (did you mean "--seeds"?)'),
])  # fmt: skip
def test_a_mistake_is_one_line(words, mistake, tmp_path, capsys):
    assert ablations.main(["--no-ui", "--workspace", str(tmp_path), *words.split()]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and mistake in said, said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fast
def test_the_commands_of_the_guide_are_understood():
    guide = (CHECKOUT / "docs/ablations.md").read_text(encoding="utf-8")
    commands = re.findall(r"^python3 -m flows\.ablations(.*)$", guide, re.MULTILINE)
    assert len(commands) >= 8
    for command in commands:
        options = ablation_options.parse(shlex.split(command, comments=True))
        assert chosen(options.only, options.control)


def test_a_runs_own_name_and_budget_count_and_a_run_of_the_other_program_is_left_alone(tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text("run: mine\nbudget: 7m\n")
    assert ablation_options.parse([]).run.config.budget == 20 * 60
    options = ablation_options.parse(["--config", str(file), "--workspace", str(tmp_path)]).run
    assert (options.run, options.config.budget) == ("mine", 7 * 60)

    state = tmp_path / "state/mine"
    record = SessionRecord("", 1, "finished", 1, "python3 -m flows.full_run --run mine")
    durable.write_note(state / "session.json", to_json(record))
    before = (state / "session.json").read_bytes()
    for more in ([], ["--fresh"]):
        assert ablations.main(["--no-ui", "--workspace", str(tmp_path), "--run", "mine", *more]) == 2
        assert (
            capsys.readouterr().err
            == f"error: --run mine: is a run of flows.full_run in {tmp_path}; choose another --run NAME\n"
        )
        assert [path.name for path in state.iterdir()] == ["session.json"]
    assert (state / "session.json").read_bytes() == before
