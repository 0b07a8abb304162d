"""The one command, for real, with its pages: killed and continued, run again, changed, stopped.

One small run in a copy of the checkout is shared by all tests here; they look at what it left, then change things.
What it survives at every moment (kills, signals, two starts and all else) is proved by tests/test_campaign.py.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from flows.context.command_words import PHASES
from nanogpt import durable
from tests.conftest import free_port
from tests.flows.small_model import SMALL, english

CHECKOUT = Path(__file__).resolve().parent.parent.parent
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
TITLES = {f"{number} {phase.capitalize()}" for number, phase in enumerate(PHASES, 1)}
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("full_run")]


class Copy:
    """A copy of the checkout with a repository of its own, a person's unfinished work in it, and a run."""

    def __init__(self, folder: Path):
        self.checkout, self.workspace = folder / "checkout", folder / "workspace"
        listed = _git(CHECKOUT, "ls-files", "-coz", "--exclude-standard").split("\0")
        for name in filter(None, listed):
            if (CHECKOUT / name).is_file():
                (self.checkout / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(CHECKOUT / name, self.checkout / name)
        _git(self.checkout, "init", "-q")
        _git(self.checkout, "add", "-A")
        _git(self.checkout, "commit", "-qm", "as it is")
        (self.checkout / "README.md").write_text("staged\n")
        _git(self.checkout, "add", "README.md")
        (self.checkout / "README.md").write_text("staged, then changed again\n")
        (self.checkout / "untracked.txt").write_text("mine\n")
        self.config = folder / "small.yaml"
        self.config.write_text(SMALL)
        self.text = folder / "text.txt"
        self.text.write_text(english()[:60_000])
        self.port = free_port()
        self.environment = {**os.environ, "PYTHONPATH": str(self.checkout), "OMP_NUM_THREADS": "1", "NO_COLOR": "1",
                            "COLUMNS": "200"}  # fmt: skip

    def command(self, *more: str) -> list[str]:
        return [sys.executable, "-m", "flows.full_run", "--no-bootstrap", "--workspace", str(self.workspace),
                "--config", str(self.config), "--data", str(self.text), "--budget", "10m", "--set", "tests=false",
                "--set", f"port={self.port}", *more]  # fmt: skip

    def start(self, *more: str) -> subprocess.Popen:
        return subprocess.Popen(self.command(*more), cwd=self.checkout, env=self.environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip

    def run(self, *more: str) -> subprocess.CompletedProcess:
        return subprocess.run(self.command(*more), cwd=self.checkout, env=self.environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)  # fmt: skip

    def stop_server(self) -> None:
        home = str(self.workspace / "state/.prefect")
        subprocess.run([sys.executable, "-m", "flows.prefect_server", "stop", home], cwd=self.checkout,
                       env=self.environment, check=True)  # fmt: skip

    @property
    def log(self) -> str:
        file = self.workspace / "logs/default/automation_log.txt"
        return file.read_text() if file.exists() else ""

    def since(self, length: int) -> str:
        return self.log[length:]

    def marker(self, step: str) -> dict:
        return durable.read_json(self.workspace / f"state/default/markers/{step}.json")

    def snapshot(self) -> dict[str, int]:
        """When each artefact was written; what a session notes of itself is left out."""
        of_session = ("session.json", "copies/session.json", "clock.json", "holder.json", "lock", "timeline.jsonl")
        own = ("logs/", "state/.prefect/", *(f"state/default/{name}" for name in of_session))
        files = {str(path.relative_to(self.workspace)): path for path in self.workspace.rglob("*") if path.is_file()}
        return {name: path.stat().st_mtime_ns for name, path in files.items() if not name.startswith(own)}

    def repository(self) -> tuple:
        """HEAD, index and work tree, byte for byte."""
        git = self.checkout / ".git"
        tree = {path: path.read_bytes() for path in self.checkout.rglob("*")
                if path.is_file() and git not in path.parents and "__pycache__" not in path.parts}  # fmt: skip
        return (git / "HEAD").read_bytes(), (git / "index").read_bytes(), _git(self.checkout, "rev-parse", "HEAD"), tree


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The run, killed when its model was trained, and then finished, with pages."""
    copy = Copy(tmp_path_factory.mktemp("run"))
    copy.before = copy.repository()
    process = copy.start("--no-ui")
    _wait_for(lambda: "evaluation.models: started" in copy.log, process)
    process.kill()
    process.communicate()
    copy.finish = copy.run()
    yield copy
    copy.stop_server()


def test_a_killed_run_is_finished_by_the_same_command_and_no_finished_step_is_repeated(copy):
    assert copy.finish.returncode == 0, copy.finish.stdout[-3000:]
    assert (copy.workspace / "reports/default/training_report.html").stat().st_size > 10_000
    finished = re.findall(r"INFO +(\S+): finished in", copy.log)
    assert "training.small" in finished and sorted(finished) == sorted(set(finished))


def test_the_model_has_one_card_wherever_it_lies_and_its_export_names_no_place_of_this_machine(copy):
    places = ("checkpoints/default/small/README.md", "exports/default/best/README.md",
              "reports/default/model_card-small.md", "state/default/model_card.md")  # fmt: skip
    cards = {(copy.workspace / place).read_bytes() for place in places}
    assert len(cards) == 1
    [card] = cards
    for words in (b"# small\n", b"learned `text.txt` from scratch", b"| 5-gram |", b"--data text.txt"):
        assert words in card, words
    for file in (copy.workspace / "exports/default/best").iterdir():
        for place in (copy.workspace, copy.text.parent, copy.checkout, Path.home()):
            assert str(place).encode() not in file.read_bytes(), file


def test_a_persons_repository_is_as_it_was_and_the_branch_tells_the_story(copy):
    assert copy.repository() == copy.before
    story = _git(copy.checkout, "log", "--format=%s", "autopilot/default").splitlines()
    assert story[-1] == "as it is"  # the first milestone stands on HEAD
    assert any(line.startswith("small: validation loss") for line in story)
    assert any("report" in line.lower() for line in story)


def test_the_pages_show_eight_phases_and_why_steps_were_kept(copy):
    flows = _ask(copy, "flow_runs/filter", {})
    assert [flow["state"]["type"] for flow in flows] == ["COMPLETED"]
    tasks = _tasks(copy, flows[0], lambda tasks: len(TITLES & tasks.keys()) == 8 and "Train small" in tasks)
    kept = tasks["Train small"]
    assert kept["name"] == "Cached" and "inputs and outputs unchanged" in kept["message"]


def test_again_after_success_everything_is_kept_and_nothing_is_rewritten(copy):
    before, length = copy.snapshot(), len(copy.log)
    done = copy.run()
    assert done.returncode == 0, done.stdout
    assert copy.snapshot() == before
    assert ": started" not in copy.since(length) and copy.since(length).count(": kept (") > 20
    assert "Nothing is left to do" in done.stdout and f"Pages:  http://127.0.0.1:{copy.port}" in done.stdout
    assert len(_ask(copy, "flow_runs/filter", {})) == 1  # a start with nothing to do shows nothing


def test_a_finished_run_starts_no_server_only_to_say_so(copy):
    copy.stop_server()
    before = copy.snapshot()
    done = copy.run()
    assert done.returncode == 0, done.stdout
    assert "Nothing is left to do" in done.stdout
    assert "Pages" not in done.stdout
    assert copy.snapshot() == before


def test_what_the_readme_prints_to_use_and_tune_the_model_works_on_what_the_run_made(copy, tmp_path):
    at_home = _at_home(copy, tmp_path)
    for heading in ("## Use the model", "## The trainer by itself"):
        [block] = re.findall(r"```console\n(.*?)```", README.split(heading)[1].split("\n## ")[0], re.DOTALL)
        for command in block.splitlines():
            if command.startswith("nanogpt train"):
                command += " --set device.type=cpu --max-seconds 2"  # as much as is needed to see that it trains
            if command.startswith("nanogpt serve"):
                command = _served(command)
            printed = at_home(command)
            assert printed or command.startswith("source"), command


def test_what_the_run_prints_to_use_the_model_works(copy, tmp_path):
    at_home = _at_home(copy, tmp_path)
    guide = (copy.workspace / "reports/default/README.md").read_text()
    [block] = re.findall(r"```sh\n(.*?)```", guide.split("## Use the model")[1].split("\n## ")[0], re.DOTALL)
    examples = [line for line in block.splitlines() if line.startswith("python examples/")]  # phase 7 ran each of them
    assert len(examples) == 3 and all((copy.checkout / line.split()[1]).is_file() for line in examples)
    assert copy.marker("deployment.examples")["state"] == "finished"
    assert at_home("\n".join(line for line in block.splitlines() if line not in examples))
    talk, serve = (copy.finish.stdout.split(f"{words}:\n")[1].splitlines()[0]
                   for words in ("Talk to it", "Open it in a browser, or from other programs"))  # fmt: skip
    assert "JULIET" in at_home(talk)
    assert "200" in at_home(_served(serve))


def _served(command: str) -> str:
    """A command that serves a model, asked for its health as soon as it answers, then ended."""
    port = free_port()
    return f"""\
{command} --port {port} &
python -c "
import time, urllib.request
while True:
    try:
        print(urllib.request.urlopen('http://127.0.0.1:{port}/health', timeout=5).status)
        break
    except OSError:
        time.sleep(0.1)
"
kill $!
wait $!"""


def _at_home(copy: Copy, folder: Path) -> Callable[[str], str]:
    """What a shell prints for a command as a person types it, who stands in the checkout with the workspace in it."""
    for name in ("exports", "data", "checkpoints", "state"):
        (folder / name).symlink_to(copy.workspace / name)
    for name in ("examples", "configs"):
        (folder / name).symlink_to(copy.checkout / name)
    (folder / "letters").mkdir()
    (folder / "letters/one.txt").write_text(english()[60_000:100_000])
    programs = folder / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f"export PATH={programs}:$PATH\n")
    for name, program in {"python": "", "python3": "", "nanogpt": " -m nanogpt.cli"}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable}{program} "$@"\n')
        (programs / name).chmod(0o755)
    environment = {**copy.environment, "HOME": str(folder), "PATH": f"{programs}:{os.environ['PATH']}"}

    def run(command: str) -> str:
        done = subprocess.run(["bash", "-ec", command], cwd=folder, env=environment, text=True, input="Good morrow!\n",
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}"
        return done.stdout

    return run


def test_a_changed_template_renders_only_the_documents(copy):
    template = copy.checkout / "templates/training_report.md.j2"
    changed = template.read_text().replace("# Training report", "# My own report", 1)
    template.write_text(changed)
    length = len(copy.log)
    done = copy.run("--no-ui")
    assert done.returncode == 0, done.stdout
    assert _started(copy.since(length)) == {"documentation.report": "code of templates/*.j2 changed"}
    assert "# My own report" in (copy.workspace / "reports/default/training_report.md").read_text()


def test_a_changed_learning_rate_trains_again_and_ctrl_c_prints_the_command_that_continues_with_it(copy):
    length = len(copy.log)
    process = copy.start("--no-ui", "--set", "training.learning_rate=2e-2")
    _wait_for(lambda: _trainer_of(process) is not None, process)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    last = printed.rstrip().splitlines()[-1].strip()
    assert last.startswith("python3 -m flows.full_run --workspace ") and "training.learning_rate=2e-2" in last
    started = _started(copy.since(length))
    assert started["training.small"] == "training.learning_rate 0.01 -> 0.02"
    untouched = ("environment.", "implementation.", "dataset.", "configuration.measure", "evaluation.baselines")
    assert [step for step in started if step.startswith(untouched)] == []
    looked = copy.run("--status", "--set", "training.learning_rate=2e-2", "--no-ui").stdout
    assert re.search("models .* to do .* Train small has not finished", looked), looked


def _trainer_of(process: subprocess.Popen) -> psutil.Process | None:
    try:
        children = psutil.Process(process.pid).children()
        return next((child for child in children if "nanogpt.cli" in child.cmdline()), None)
    except psutil.NoSuchProcess:
        return None


def _wait_for(condition, process: subprocess.Popen, seconds: float = 300.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()[-3000:]
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.02)


def _started(log: str) -> dict[str, str]:
    """Steps that were started, with the reason."""
    return dict(re.findall(r"INFO +(\S+): started \((.*)\)$", log, re.MULTILINE))


def _ask(copy: Copy, what: str, question: dict) -> list[dict]:
    server = durable.read_json(copy.workspace / "state/.prefect/server.json")
    answer = httpx.post(f"{server['url']}/api/{what}", json=question, headers={"Origin": server["url"]}, timeout=60)
    return answer.raise_for_status().json()


def _tasks(copy: Copy, flow: dict, expected: Callable[[dict], bool]) -> dict[str, dict]:
    """The states of a flow run's tasks, as soon as they are as `expected`: the server records them a moment later."""
    until = time.monotonic() + 120
    while True:
        question = {"flow_runs": {"id": {"any_": [flow["id"]]}}, "limit": 100}
        tasks = {task["name"]: task["state"] for task in _ask(copy, "task_runs/filter", question) if task["state"]}
        if expected(tasks):
            return tasks
        assert time.monotonic() < until, tasks
        time.sleep(0.2)


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A Person", "-c", "user.email=person@example.org"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, text=True,
                          capture_output=True).stdout.strip("\n")  # fmt: skip
