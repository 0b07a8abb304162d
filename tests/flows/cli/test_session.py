"""Around a flow: exit codes, signals, a terminal that goes away, and what is said at the end."""

import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler

import pytest

from flows import full_run
from flows.cli import session
from flows.context.command_words import PHASES
from flows.context.options import RunOptions
from flows.context.paths import CHECKOUT
from flows.context.watchdog import Watchdog
from flows.display.terminal import Terminal
from flows.ledger.facts import FETCHED, Key
from flows.runner import assembly
from flows.runner.sessions import Session
from nanogpt.faults import UserError
from nanogpt.sources import catalogue
from tests.flows.small_flow import Flow, Made
from tests.loopback import serving


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
    flow.failing["training.micro"] = UserError("data.source: there is no a\x1b[2J.txt")  # not for the terminal to obey
    assert start(flow) == 2
    assert capsys.readouterr().err == "error: data.source: there is no a\\x1b[2J.txt\n"
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


def test_a_run_works_while_its_server_starts_and_ctrl_c_waits_for_neither(flow, monkeypatch, capsys):
    def never_ready(home, log, port, closing):
        assert closing.wait(60), "nobody said that the run had ended"

    def work(run):
        flow.do_phases(run)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(session, "connect", never_ready)
    assert session.main(flow.arguments(), flow.phases(), work) == 130
    assert "continue with:\n  python3 -m flows.full_run" in capsys.readouterr().out
    assert flow.ended == "stopped" and "documentation.report" in flow.worked


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


SECRET = "data.mirror=https://me:secret@host/a"


def continued(flow: Flow, *arguments: str) -> RunOptions:
    """The options of a start that gives `arguments` alone."""
    seen = []
    session.main(["--workspace", str(flow.workspace), *arguments], flow.phases(), lambda run: seen.append(run.options))
    [options] = seen
    return options


def test_a_password_is_asked_for_again_and_its_place_holder_is_never_used(flow, capsys):
    start(flow, "--set", SECRET)
    for _ in range(2):  # as long as it is missing
        options = continued(flow)
        assert options.config.data.mirror is None and options.config.budget == 600
        assert "data.mirror has a password, which is not kept: give it again" in capsys.readouterr().err
    options = continued(flow, "--set", SECRET)
    assert options.config.data.mirrors == ["https://me:secret@host/a"] and options.config.budget == 600
    assert "give it again" not in capsys.readouterr().err


def test_a_command_that_holds_a_hidden_password_says_so_and_is_refused(flow, capsys):
    flow.failing["training.micro"] = KeyboardInterrupt()
    assert start(flow, "--set", SECRET) == 130
    command, remark = capsys.readouterr().out.splitlines()[-2:]
    assert "https://***@host/a" in command and "# type the password in place of ***" in remark
    assert session.main(shlex.split(command)[3:], flow.phases(), lambda run: pytest.fail("started")) == 2
    refusal = "data.mirror: https://***@host/a: *** stands for a password, which is not kept; give it again"
    assert capsys.readouterr().err == f"error: {refusal}\n"


def test_no_boot_starts_a_run_without_its_password(flow, capsys):
    start(flow, "--set", SECRET)
    arguments = ["--workspace", str(flow.workspace), "--install-at-boot"]
    assert session.main(arguments, flow.phases(), flow.do_phases) == 2
    assert "error: --install-at-boot: data.mirror has a password" in capsys.readouterr().err


def test_no_file_of_a_run_holds_the_password_of_a_mirror(tmp_path, monkeypatch, capsys):
    """The mirror lacks the text: its address is in the faults and remedies that are recorded."""

    class Lacking(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

    place = catalogue.CATALOGUE["tiny_shakespeare"]
    monkeypatch.setitem(catalogue.CATALOGUE, "tiny_shakespeare", replace(place, file=replace(place.file, homes=())))
    with serving(Lacking) as address:
        mirror = f"data.mirror={address.replace('//', '//me:hunter-two@')}/a"
        arguments = ["--workspace", str(tmp_path), "--no-ui", "--data", "tiny_shakespeare",
                     "--set", "milestones=false", "--set", mirror]  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["full_run", *arguments])
        session.main(arguments, full_run.PHASES, lambda run: run.do(FETCHED))
    held = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for path in ("state/default/session.json", "state/default/holder.json", "logs/default/automation_log.txt"):
        assert b"http://***@127.0.0.1" in held[tmp_path / path], path
    assert "answers 404" in held[tmp_path / "logs/default/automation_log.txt"].decode()
    assert [path for path, content in held.items() if b"hunter-two" in content] == []
    assert "hunter-two" not in "".join(capsys.readouterr())


def test_a_run_remembers_that_it_has_no_pages_and_keeps_its_options_next_to_those_of_a_moment(flow):
    start(flow, "--set", "training.seed=7")
    for more in ([], ["--min-charge", "0"], ["--on-hangup", "save"], ["--no-ui"]):
        options = continued(flow, *more)
        assert not options.ui and options.config.budget == 600 and options.config.data.source == "embedded"
        assert options.candidates[0].training.seed == 7
    assert (options.config.min_charge, options.config.on_hangup) == (0, "save")  # remembered, too
    words = list(options.words)
    assert len(words) == len(continued(flow, "--no-ui", "--min-charge", "0").words)  # however often it is started


def test_status_and_plan_without_options_are_of_the_run_as_it_was_started(flow, capsys):
    def settings(run):
        return {"budget": run.config.budget, "seed": run.options.candidates[0].training.seed}

    phases = flow.phases(environment=replace(flow.step(Key("environment.asked", Made)), settings=settings))
    arguments = ["--workspace", str(flow.workspace)]
    session.main([*flow.arguments("--no-ui"), "--set", "training.seed=7"], phases, flow.do_phases)
    capsys.readouterr()
    for option in ("--status", "--plan"):
        assert session.main([*arguments, option], phases, flow.do_phases) == 0
        printed = capsys.readouterr()
        assert "Run default continues with the options of before: --budget 10m" in printed.err
        assert printed.out.count("unchanged") == 4 and "seed" not in printed.out
    assert "run default, budget 10 min" in printed.out
    session.main([*arguments, "--plan", "--budget", "1h", "--set", "ladder=[micro]"], phases, flow.do_phases)
    printed = capsys.readouterr()
    assert "budget 10 min -> 1 h, seed 7 -> 1337" in printed.out and printed.err == ""


def test_a_flow_that_hangs_leaves_its_stacks_in_the_log(flow, monkeypatch):
    monkeypatch.setattr(assembly, "Watchdog", partial(Watchdog, patience=0.2))

    def hangs_here(run):
        deadline = time.monotonic() + 20
        while "no progress for" not in flow.log and time.monotonic() < deadline:
            time.sleep(0.02)
        flow.do_phases(run)

    assert start(flow, work=hangs_here) == 0
    assert " ERROR no progress for" in flow.log and "thread MainThread" in flow.log and "in hangs_here" in flow.log


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
    assert "nanogpt watch" in process.stdout.readline() and "1 Environment" in process.stdout.readline()
    process.stdout.close()
    _, complaints = process.communicate("\n" * len(PHASES), timeout=60)
    assert (process.returncode, complaints) == (0, "")
    assert flow.ended == "finished" and flow.log.count("a message") == len(PHASES)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_python_runs_text_is_exit_code_130_too(flow, tmp_path, number):
    script = textwrap.dedent("""
        import sys
        from flows.cli import session
        from flows.context.command_words import PHASES
        from flows.runner.run import Phase

        SIGNALLED = "import os; os.kill(os.getpid(), {number})\\nfor _ in range(10**9): pass"
        phases = [Phase(name, lambda run: exec(SIGNALLED), lambda wanted: []) for name in PHASES]
        sys.exit(session.main(sys.argv[1:], phases, lambda run: [run.run_phase(phase) for phase in phases]))
    """)
    (tmp_path / "of_a_test.py").write_text(script.format(number=int(number)), encoding="utf-8")
    command = [sys.executable, "-m", "of_a_test", "--workspace", str(flow.workspace), "--data", "embedded", "--no-ui"]
    environment = {**os.environ, "PYTHONPATH": f"{CHECKOUT}{os.pathsep}{tmp_path}"}
    done = subprocess.run(
        [*command, "--on-hangup", "save"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (130, "")
    assert "Stopped. What was done is kept" in done.stdout and flow.ended == "stopped"


def test_a_process_that_is_left_has_its_exit_code_and_all_that_it_said():
    program = "import atexit; from flows.cli import session; atexit.register(print, 2); print(1); session.leave(3)"
    done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (3, "1\n2\n")
