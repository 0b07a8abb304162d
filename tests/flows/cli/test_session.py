"""Around a flow: exit codes, signals, a terminal that goes away, and what is said at the end."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from flows.cli import session
from flows.context.command_words import PHASES
from flows.context.paths import CHECKOUT
from flows.display.terminal import Terminal
from flows.runner.sessions import Session
from nanogpt.faults import UserError
from tests.flows.small_flow import Flow


@pytest.fixture
def flow(tmp_path) -> Flow:
    return Flow(tmp_path)


def start(flow: Flow, *arguments: str, work=None) -> int:
    return session.main(flow.arguments("--no-ui", *arguments), flow.phases(), work or flow.do_phases)


def test_a_mistake_found_after_training_costs_its_phase_and_not_the_report(flow, capsys):
    flow.failing["evaluation.judge"] = UserError("checkpoints/default/micro/config.yaml: cannot be read")
    assert start(flow) == 1
    assert "6 Evaluation failed: checkpoints/default/micro/config.yaml: cannot be read" in capsys.readouterr().out
    assert "documentation.report" in flow.worked


def test_the_exit_code_says_how_it_went(flow, capsys):
    flow.failing["training.micro"] = RuntimeError("no remedy is left")
    assert start(flow) == 1
    assert "5 Training failed: no remedy is left" in capsys.readouterr().out
    flow.failing["training.micro"] = KeyboardInterrupt()
    assert start(flow) == 130
    assert "continue with:\n  python3 -m flows.full_run" in capsys.readouterr().out
    flow.failing["training.micro"] = UserError("model.n_embd: is odd")
    assert start(flow) == 2
    assert capsys.readouterr().err == "error: model.n_embd: is odd\n"
    flow.failing.clear()
    assert start(flow) == 0
    assert flow.ended == "finished"


@pytest.mark.parametrize(
    "budget, heading", [("90s", "1 min 30 s"), ("10m", "10 min"), ("1h", "1 h"), ("90m", "1 h 30 min")]
)
def test_the_heading_has_the_budget_as_it_was_asked_for(flow, monkeypatch, budget, heading):
    shown = []
    monkeypatch.setattr(session, "Terminal", lambda *asked: shown.append(asked[2]) or Terminal(*asked))
    assert start(flow, "--budget", budget) == 0
    assert shown == [f"nanogpt-autopilot  run default  budget {heading}"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_as_ctrl_c_does(flow, number):
    before = signal.getsignal(number)
    assert start(flow, "--on-hangup", "save", work=lambda run: os.kill(os.getpid(), number)) == 130
    assert flow.ended == "stopped"
    assert signal.getsignal(number) is before


def test_nohup_is_respected(flow):
    def work(run):
        os.kill(os.getpid(), signal.SIGHUP)
        flow.do_phases(run)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert start(flow, work=work) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_while_the_server_starts_is_a_stop_like_any_other(flow, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.display.prefect_server.connect", interrupted)
    assert session.main(flow.arguments(), flow.phases(), flow.do_phases) == 130
    assert "continue with:\n  python3 -m flows.full_run" in capsys.readouterr().out
    assert flow.ended == "stopped" and flow.worked == []


def test_a_workspace_that_cannot_be_written_later_is_reported_in_one_line(flow, monkeypatch, capsys):
    def full(session):
        raise OSError(28, "No space left on device", "state/default/markers")

    monkeypatch.setattr(Session, "begin", full)
    assert start(flow) == 1
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device: 'state/default/markers'\n"


def test_a_command_that_only_names_a_run_continues_it_as_it_was_started(flow, capsys):
    start(flow, "--run", "night", "--set", "training.seed=7")
    seen = []

    def work(run):
        seen.append(run.options)
        flow.do_phases(run)

    arguments = ["--workspace", str(flow.workspace), "--run", "night", "--no-ui"]
    assert session.main(arguments, flow.phases(), work) == 0
    [options] = seen
    assert options.config.budget == 600 and options.candidates[0].training.seed == 7
    assert "Run night continues with the options of before: --budget 10m" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_continues_when_nobody_reads_its_output_any_more(flow):
    script = textwrap.dedent("""
        import sys
        from flows.cli import session
        from flows.context.command_words import PHASES
        from flows.runner.run import Phase

        def work(run):
            return sys.stdin.readline() and run.journal.message("a message")

        phases = [Phase(name, work, lambda wanted: []) for name in PHASES]
        sys.exit(session.main(sys.argv[1:], phases, lambda run: [run.run_phase(phase) for phase in phases]))
    """)
    arguments = ["--workspace", str(flow.workspace), "--data", "embedded", "--no-ui"]
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], cwd=CHECKOUT, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert "1 Environment" in process.stdout.readline()
    process.stdout.close()
    _, complaints = process.communicate("\n" * len(PHASES), timeout=60)
    assert (process.returncode, complaints) == (0, "")
    assert flow.ended == "finished" and flow.log.count("a message") == len(PHASES)
