"""The one command, for real, where its model learns nothing: nothing says that all is well, until the next command.

One run in a workspace of its own: four steps of training, the same command again, one phase alone, then the command
that it prints. Its budget is too short for smaller models.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from flows.runner.sessions import PhaseNote, SessionRecord, read_session

CHECKOUT = Path(__file__).resolve().parents[2]
SMALL = """\
model: {preset: modern, n_layer: 2, n_head: 2, n_embd: 32, block_size: 32}
training: {batch_size: 8, gradient_accumulation: 2, max_iters: 4, warmup_iters: 1, eval_interval: 60,
           sample_interval: 0, checkpoint_interval: 100, log_interval: 1, learning_rate: 0.01}
data: {tokenizer: char}
device: {type: cpu, mixed_precision: false, threads: 1}
"""
HEADLINE = r"small has not learned: \d\.\d{3} bits per byte on text that it never saw; counting how often each letter"
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("not_learned")]


class Story:
    """What each start printed, and what the run left after the first two."""

    def __init__(self, folder: Path):
        self.workspace = folder / "workspace"
        (folder / "small.yaml").write_text(SMALL)
        (folder / "text.txt").write_text("\n\n".join(topics[name] for name in sorted(topics))[:60_000])
        self.words = [
            "--no-bootstrap", "--no-ui", "--workspace", str(self.workspace), "--config", str(folder / "small.yaml"),
            "--data", str(folder / "text.txt"), "--budget", "9m", "--set", "tests=false", "--set", "milestones=false",
        ]  # fmt: skip
        self.first = self.run(*self.words)
        self.session = self.read()
        self.report = (self.workspace / "reports/default/training_report.md").read_text()
        self.guide = (self.workspace / "reports/default/README.md").read_text()
        self.card = (self.workspace / "exports/default/best/README.md").read_text()
        self.status = self.run(*self.words, "--status")
        log = self.log
        self.second = self.run(*self.words)
        self.since = self.log[len(log) :]
        self.session_of_second = self.read()
        self.alone = self.run(*self.words, "--only", "evaluation")
        self.status_of_alone = self.run(*self.words, "--status")

    def run(self, *words: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", "NO_COLOR": "1",
                       "COLUMNS": "200"}  # fmt: skip
        return subprocess.run([sys.executable, "-m", "flows.full_run", *words], cwd=CHECKOUT, env=environment,
                              text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)  # fmt: skip

    def read(self) -> SessionRecord:
        session = read_session(self.workspace / "state/default")
        assert session is not None
        return session

    @property
    def log(self) -> str:
        return (self.workspace / "logs/default/automation_log.txt").read_text()

    @property
    def next_command(self) -> str:
        return evaluation_of(self.session).next_command


def evaluation_of(session: SessionRecord) -> PhaseNote:
    return next(note for note in session.phases if note.title == "Evaluation")


def farewell_of(done: subprocess.CompletedProcess) -> list[str]:
    """The lines after the last of the phases."""
    lines = done.stdout.splitlines()
    ends = [place for place, line in enumerate(lines) if "8 Documentation" in line]
    return lines[ends[-1] + 1 :]


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Story:
    return Story(tmp_path_factory.mktemp("not_learned"))


def test_the_exit_code_and_the_record_of_the_session_say_that_it_failed(story):
    assert story.first.returncode == 1, story.first.stdout[-3000:]
    assert story.session.state == "failed"
    statuses = {note.title: note.status for note in story.session.phases}
    assert statuses.pop("Evaluation") == "failed" and set(statuses.values()) == {"done"}
    assert re.match(HEADLINE, evaluation_of(story.session).cause)


def test_the_phase_is_shown_under_the_name_of_what_is_wrong(story):
    [shown] = [line for line in story.first.stdout.splitlines() if "not learned: small has" in line]
    assert "6 Evaluation" in shown and re.search(HEADLINE, shown)
    assert "6 Evaluation: done" not in story.first.stdout and "8 Documentation: done" in story.first.stdout


def test_the_last_words_on_the_terminal_begin_with_it_and_end_with_the_command_that_gives_it_a_chance(story):
    words = farewell_of(story.first)
    assert re.match(HEADLINE, words[0]), words
    assert words[1].startswith("That is as unsure of each letter as if it chose among ")
    assert words[-2:] == ["To give it enough time:", f"  {story.next_command}"]
    assert not any("continue with" in line for line in words)


def test_the_report_the_guide_and_the_card_say_it_before_all_else(story):
    lines = [line for line in story.report.splitlines() if line]
    assert lines[0].startswith("# Training report")
    assert lines[1].startswith("**Did it work?** **No: a model was trained, and it has not learned.**")
    first_screen = story.report.split("\n## ")[0]
    assert re.search(HEADLINE, first_screen) and story.next_command in first_screen
    assert re.search(HEADLINE, story.guide)
    assert re.search(HEADLINE, story.card.split("\n## ")[0])
    assert re.search(r"\| ✘\sIt learned \|", story.report)


def test_a_look_at_the_run_says_it_with_the_command(story):
    for status in (story.status, story.status_of_alone):
        assert status.returncode == 0
        assert "run default: failed" in status.stdout
        assert re.search(rf"6 Evaluation failed: {HEADLINE}", status.stdout)
        assert f"next: {story.next_command}" in " ".join(status.stdout.split())


def test_a_look_agrees_with_the_start_that_nothing_is_to_do(story):
    assert "documentation" in story.status.stdout and "to do" not in story.status.stdout


def test_the_same_command_repeats_the_message_and_none_of_the_work(story):
    assert story.second.returncode == 1
    assert ": started" not in story.since
    assert story.session_of_second.state == "failed"
    assert evaluation_of(story.session_of_second).cause == evaluation_of(story.session).cause
    assert farewell_of(story.second) == farewell_of(story.first)


def test_the_evaluation_alone_names_the_trouble_too(story):
    assert story.alone.returncode == 1
    last = story.alone.stdout.splitlines()
    assert any(re.match(rf"6 Evaluation failed: {HEADLINE}", line) for line in last), last
    assert last[-2:-1] == ["To give it enough time:"]


def test_what_is_printed_gives_it_a_chance(story):
    """It trains for longer what was trained, and ends with a model that has learned."""
    words = shlex.split(story.next_command)
    assert words[:3] == ["python3", "-m", "flows.full_run"] and "training.max_iters=100" in words
    done = story.run("--no-bootstrap", *words[3:])
    assert done.returncode == 0, done.stdout[-3000:]
    assert story.read().state == "finished"
    assert re.match(r"small (has learned|is undertrained): ", farewell_of(done)[0])
    assert "To give it enough time" not in done.stdout
