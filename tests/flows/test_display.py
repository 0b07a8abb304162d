"""What a display must keep: functions run exactly once, outcomes reach the caller, the pages tell the truth."""

import base64
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.display import prefect_server
from flows.display.plain import PlainDisplay
from flows.display.protocol import Opening, one_line
from nanogpt.faults import UserError
from tests.conftest import free_port
from tests.load import allowed

CHECKOUT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.xdist_group("display")  # they share a server


# ------------------------------------------------------------------------------------------ without a server


@pytest.mark.fast
def test_results_reach_the_caller():
    display = PlainDisplay()

    def phase():
        assert display.step_kept("kept", "unchanged") is None
        return display.step("run", lambda: 41) + 1

    assert display.flow(lambda: display.phase("1 Environment", phase), Opening("name", tags=["tag"])) == 42


@pytest.mark.fast
def test_an_exception_reaches_the_caller_as_it_is():
    display, error = PlainDisplay(), RuntimeError("boom")

    def fail():
        raise error

    with pytest.raises(RuntimeError) as caught:
        display.flow(lambda: display.phase("1 Environment", lambda: display.step("step", fail)), Opening("name"))
    assert caught.value is error


@pytest.mark.fast
def test_a_background_step_runs_while_the_phase_continues():
    display, go_on = PlainDisplay(), threading.Event()

    def phase():
        future = display.start_in_background("waits", lambda: go_on.wait(10))
        display.step("lets it go on", go_on.set)
        return future.result()

    assert display.phase("1 Environment", phase) is True


@pytest.mark.fast
def test_a_background_failure_that_nobody_asked_for_fails_the_phase():
    display = PlainDisplay()
    with pytest.raises(ZeroDivisionError):
        display.phase("1 Environment", lambda: display.start_in_background("fails", lambda: 1 / 0) and None)


@pytest.mark.fast
def test_a_background_failure_that_was_dealt_with_does_not():
    display = PlainDisplay()

    def phase():
        future = display.start_in_background("fails", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            future.result()
        return "continued"

    assert display.phase("1 Environment", phase) == "continued"


@pytest.mark.fast
def test_an_interrupt_waits_for_no_background_step():
    display, never = PlainDisplay(), threading.Event()

    def phase():
        display.start_in_background("hangs", never.wait)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        display.phase("1 Environment", phase)
    never.set()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (ValueError("two\nlines"), "ValueError: two lines"),
        (UserError("training.lr: unknown"), "training.lr: unknown"),
        (KeyError(), "KeyError"),
        (KeyboardInterrupt(), "stopped by a person"),
        ("a  text", "a text"),
    ],
)
def test_causes_are_one_line(words, line):
    assert one_line(words) == line


@pytest.mark.fast
def test_importing_a_display_does_not_import_prefect():
    modules = "flows.display.opening, flows.display.prefect_server, flows.display.terminal"
    code = f"import sys, {modules}; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT).returncode == 0


# ------------------------------------------------------------------------------------------- with a real server


@dataclass
class Stage:
    """A workspace's Prefect server, and plays on it: flows run by a process of their own."""

    home: Path
    port: int

    def start(self, play: str, **environment: str) -> subprocess.Popen:
        script = PRELUDE.format(home=str(self.home), port=self.port) + textwrap.dedent(play)
        return subprocess.Popen(
            [sys.executable, "-c", script], cwd=CHECKOUT, env={**os.environ, **environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, play: str, seconds: float = 90, **environment: str) -> tuple[int, str, str]:
        process = self.start(play, **environment)
        output, errors = process.communicate(timeout=seconds)
        return process.returncode, output, errors

    def ask(self, path: str, question: dict) -> list[dict]:
        address = f"http://127.0.0.1:{self.port}"
        headers = {"content-type": "application/json", "origin": address}
        request = urllib.request.Request(f"{address}/api/{path}", json.dumps(question).encode(), headers)
        return json.load(urllib.request.urlopen(request, timeout=10))

    def flow_run(self, name: str) -> dict:
        return self.ask("flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}})[0]

    def shown(self, name: str) -> dict[str, tuple[str, str | None]]:
        """Task -> (state, message) of the flow run `name`."""
        tasks = self.ask("task_runs/filter", {"flow_runs": {"name": {"any_": [name]}}})
        recorded = {task["name"]: task["state"] for task in tasks if task["state"]}
        return {name: (state["name"], state["message"] or None) for name, state in recorded.items()}

    def shows(self, name: str, expected: dict[str, tuple[str, str | None]]) -> None:
        """Task states are recorded a moment after they were sent."""
        deadline = time.monotonic() + 60
        while self.shown(name) != expected and time.monotonic() < deadline:
            time.sleep(0.2)
        assert self.shown(name) == expected


PRELUDE = """
import os, signal, sys, time
from pathlib import Path
from flows.display import prefect_server
from flows.display.opening import open_display
from flows.display.protocol import LeftOut, Opening, TrainingProgress
logged, ran = [], []
server = prefect_server.connect(Path({home!r}), logged.append, {port})
display = open_display(lambda closing: server, logged.append)

def step(title, value=None):
    return display.step(title, lambda: ran.append(title) or value)

def wait_for_page():
    until = time.monotonic() + 60
    while "/flow-run/" not in (display.url or ""):
        assert time.monotonic() < until, logged  # else who waits for this process's next words would wait for ever
        time.sleep(0.05)

def lose_server():
    server.close()
    prefect_server.stop(Path({home!r}))
    server.lost.set()

"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Iterator[Stage]:
    home = tmp_path_factory.mktemp("prefect")
    yield Stage(home, free_port())
    prefect_server.stop(home)


@pytest.mark.slow
def test_pages_show_what_ran_what_was_kept_and_what_failed(stage):
    code, output, errors = stage.run(
        """
        class Blocked(Exception):
            shown_as = "Blocked"

        def environment():
            display.step_kept("Make {folders}", "unchanged")
            display.step_kept("Freeze packages", "unchanged")

        def dataset():
            display.step_kept("Fetch", "unchanged")
            tokenise = display.start_in_background("Tokenise", lambda: 7)
            display.step("Make it smaller", lambda: LeftOut("the run is late"))
            display.note("a line", "warning")
            display.table("Component_checks", [{"a": 1}], "a table")
            display.progress(TrainingProgress("small", 1, 4))
            display.markdown("report", "# Report")
            return tokenise.result()

        def training():
            display.step("Train", lambda: 1 / 0)

        def evaluation():
            raise Blocked("training has not finished")

        def main():
            display.phase("1 Environment", environment)
            assert display.phase("4 Dataset", dataset) == 7
            for label, function in ("5 Training", training), ("6 Evaluation", evaluation):
                try:
                    display.phase(label, function)
                except Exception as error:
                    print(type(error).__name__)
            return "done"

        print(display.flow(main, Opening("all states", tags=["run:states"])), display.url.rsplit("/", 1)[0])
        """
    )
    assert code == 0 and errors == "", errors  # Prefect is quiet on the terminal
    address = f"http://127.0.0.1:{stage.port}/runs/flow-run"
    assert output.split("\n")[:-1] == ["ZeroDivisionError", "Blocked", f"done {address}"]
    stage.shows(
        "all states",
        {
            "1 Environment": ("Cached", "2 of 2 steps kept"),
            "Make {folders}": ("Cached", "unchanged"),
            "Freeze packages": ("Cached", "unchanged"),
            "4 Dataset": ("Completed", "1 of 3 steps kept"),
            "Fetch": ("Cached", "unchanged"),
            "Tokenise": ("Completed", None),
            "Make it smaller": ("Left out", "the run is late"),
            "5 Training": ("Failed", "ZeroDivisionError: division by zero"),
            "Train": ("Failed", "ZeroDivisionError: division by zero"),
            "6 Evaluation": ("Blocked", "training has not finished"),
        },
    )
    run = stage.flow_run("all states")
    assert run["state"]["type"] == "FAILED" and run["tags"] == ["run:states"]
    assert run["state"]["message"].startswith("5 Training: ZeroDivisionError: division by zero; 6 Evaluation:")
    artifacts = stage.ask("artifacts/filter", {"flow_runs": {"name": {"any_": ["all states"]}}})
    assert {(artifact["key"].removeprefix("all-states-"), artifact["type"]) for artifact in artifacts} == {
        ("component-checks", "table"), ("training-small", "progress"), ("report", "markdown")
    }  # fmt: skip
    texts = lines_of(stage, "all states")
    assert "a line" in texts and "kept: unchanged" in texts
    assert sum("ZeroDivisionError" in text for text in texts) == 1  # explained once, not at every level


def artifacts_of(stage: Stage, name: str) -> dict[str | None, dict]:
    found = stage.ask("artifacts/filter", {"flow_runs": {"name": {"any_": [name]}}})
    return {artifact["key"]: artifact for artifact in found}


def lines_of(stage: Stage, name: str) -> list[str]:
    wanted = {"logs": {"flow_run_id": {"any_": [stage.flow_run(name)["id"]]}}, "sort": "TIMESTAMP_ASC"}
    return [line["message"] for line in stage.ask("logs/filter", wanted)]


@pytest.mark.slow
def test_a_start_has_a_name_its_parameters_and_the_other_starts_of_its_run_next_to_it(stage):
    code, output, errors = stage.run(
        """
        parameters = {"budget": "10 min", "models": ["small"], "name": "x", "flow": 1}
        opening = Opening("mine", "mine, 10 min, noon", ["run:mine"], parameters)
        print(display.flow(lambda: display.phase("1 Environment", lambda: step("one", 7)), opening))
        """
    )
    assert (code, output, errors) == (0, "7\n", "")
    run = stage.flow_run("mine, 10 min, noon")
    expected = {"budget": "10 min", "models": ["small"], "name": "x", "flow": 1}
    assert run["parameters"] == expected and run["tags"] == ["run:mine"]
    wanted = {"deployments": {"id": {"any_": [run["deployment_id"]]}}}
    assert [deployment["name"] for deployment in stage.ask("deployments/filter", wanted)] == ["mine"]


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "words", "percent"), [("pass", "done", 100), ("1 / 0", "failed", 50),
                                                          ("raise KeyboardInterrupt", "stopped", 50)])  # fmt: skip
def test_a_training_has_log_lines_and_a_last_word(stage, ending, words, percent):
    name = f"ends {words}"
    stage.run(
        f"""
        def train():
            for step in range(501):
                display.progress(TrainingProgress("small", step, 1000, loss=5 - step / 500, seconds_left=6.0))
            wait_for_page()
            {ending}

        try:
            display.flow(lambda: display.phase("5 Training", lambda: display.step("Train", train)), Opening({name!r}))
        except BaseException:
            pass
        """
    )
    last = f"small  step 500/1,000  loss 4.000  {words}"
    progress = artifacts_of(stage, name)[f"ends-{words}-training-small"]
    assert (progress["data"], progress["description"]) == (percent, last)
    lines = [line for line in lines_of(stage, name) if line.startswith("small")]
    assert lines == ["small  step 0/1,000  loss 5.000  0:06 left", last]


@pytest.mark.slow
def test_what_a_cached_start_shows_does_not_stand_before_the_first(stage):
    play = """
        def documentation():
            {step}
            display.markdown("report", "{text}")

        display.flow(lambda: display.phase("8 Documentation", documentation), Opening("same", "same {text}"))
        """
    stage.run(play.format(step='step("Write the report")', text="first"))
    stage.run(play.format(step='display.step_kept("Write the report", "unchanged")', text="again"))
    (latest,) = stage.ask("artifacts/latest/filter", {"artifacts": {"key": {"any_": ["same-report"]}}})
    assert latest["data"] == "first"
    assert artifacts_of(stage, "same again")[None]["data"] == "again"  # it is on its own page


@pytest.mark.slow
def test_an_image_is_on_the_page_without_any_other_server_and_is_replaced(stage, tmp_path):
    plot = tmp_path / "loss.svg"
    stage.run(
        f"""
        def train():
            for content in "<svg>1</svg>", "<svg>2</svg>":
                Path({str(plot)!r}).write_text(content)
                display.image("loss", Path({str(plot)!r}), "the loss")

        display.flow(lambda: display.phase("5 Training", lambda: display.step("Train", train)), Opening("image"))
        """
    )
    wanted = {"flow_runs": {"name": {"any_": ["image"]}}}
    (image,) = stage.ask("artifacts/filter", wanted)
    kind, _, data = image["data"].partition(";base64,")
    assert (image["type"], kind, base64.b64decode(data)) == ("image", "data:image/svg+xml", b"<svg>2</svg>")


@pytest.mark.slow
@pytest.mark.parametrize("state", ["CANCELLING", "CANCELLED"])
def test_a_flow_run_that_is_cancelled_on_its_page_is_interrupted(stage, state):
    name = f"is {state}"
    process = stage.start(
        f"""
        def interrupt(number, frame):
            raise KeyboardInterrupt

        def long():
            wait_for_page()
            print("running", flush=True)
            time.sleep(60)

        signal.signal(signal.SIGTERM, interrupt)
        opening = Opening({name!r}, cancel=lambda: os.kill(os.getpid(), signal.SIGTERM))
        began = time.monotonic()
        try:
            display.flow(lambda: display.phase("5 Training", lambda: display.step("Train", long)), opening)
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    assert process.stdout.readline() == "running\n"
    run = stage.flow_run(name)["id"]
    began = time.monotonic()
    stage.ask(f"flow_runs/{run}/set_state", {"state": {"type": state}})
    assert process.communicate(timeout=60)[0] == "interrupted\n"
    assert time.monotonic() - began < allowed(10)
    stopped = ("Cancelled", "stopped; the same command continues from here")
    stage.shows(name, {"5 Training": stopped, "Train": stopped})
    assert stage.flow_run(name)["state"]["type"] == "CANCELLED"


@pytest.mark.slow
def test_a_start_that_somebody_wanted_from_the_page_is_cancelled_by_the_next_one(stage):
    stage.run(
        'display.flow(lambda: display.phase("1 Environment", lambda: None), Opening("retry", tags=["run:retry"]))'
    )
    run = stage.flow_run("retry")
    again = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
    stage.ask(f"flow_runs/{run['id']}/set_state", again)
    quick = stage.ask(f"deployments/{run['deployment_id']}/create_flow_run", {"name": "quick"})
    assert quick["state"]["type"] == "SCHEDULED"
    stage.run('server.mark_crashed("run:retry")')
    for name in "retry", "quick":
        state = stage.flow_run(name)["state"]
        assert state["type"] == "CANCELLED" and "use its command" in state["message"]


@pytest.mark.slow
@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "http://127.0.0.1:1", "gopher://x"])
def test_the_pages_are_reached_whatever_proxy_a_person_has(stage, proxy):
    """Port 1 answers nobody: all that went through the proxy would be lost. httpx has no package for socks5 here."""
    name = f"through {proxy.partition(':')[0]}"
    code, output, errors = stage.run(
        f"""
        def phase():
            step("one")
            display.note("a line")

        display.flow(lambda: display.phase("1 Environment", phase), Opening({name!r}))
        print(logged[1:], server.mark_crashed("run:none"))
        """,
        **{variable: proxy for variable in ("ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy")},
    )
    assert (code, output.strip(), errors) == (0, "[] 0", "")
    completed = ("Completed", None)
    stage.shows(name, {"1 Environment": completed, "one": completed})
    assert lines_of(stage, name) == ["a line"]


@pytest.mark.slow
def test_a_server_lost_for_good_changes_nothing_for_the_run(stage):
    code, output, _ = stage.run(
        """
        def phase():
            step("before")
            wait_for_page()
            background = display.start_in_background("background", lambda: ran.append("background") or 2)
            lose_server()
            display.note("goes nowhere")
            display.progress(TrainingProgress("small", 1, 2))
            return step("after", 40) + background.result()

        value = display.flow(lambda: display.phase("1 Environment", phase), Opening("lost", tags=["run:lost"]))
        print(value, sorted(ran), display.url)
        """,
        seconds=60,  # without care: 146 s
    )
    assert (code, output.strip()) == (0, "42 ['after', 'background', 'before'] None")


@pytest.mark.slow
def test_a_server_lost_before_the_flow_changes_nothing_for_the_run(stage):
    code, output, _ = stage.run(
        """
        lose_server()
        print(display.flow(lambda: display.phase("1 Environment", lambda: step("one", 1)), Opening("never")), ran)
        """
    )
    assert (code, output.strip()) == (0, "1 ['one']")


@pytest.mark.slow
def test_a_server_that_is_killed_comes_back_and_knows_everything(stage):
    code, output, errors = stage.run(
        """
        def phase():
            step("before")
            wait_for_page()
            time.sleep(1)  # the first states are there
            os.kill(server.record.pid, signal.SIGKILL)
            step("after")

        display.flow(lambda: display.phase("1 Environment", phase), Opening("killed"))
        print(ran, any("back" in line for line in logged))
        print(*logged, sep="\\n", file=sys.stderr)
        """
    )
    assert (code, output.strip()) == (0, "['before', 'after'] True")
    completed = ("Completed", None)
    stage.shows("killed", {"1 Environment": completed, "before": completed, "after": completed})
    assert stage.flow_run("killed")["state"]["type"] == "COMPLETED", errors


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_runs_own_handlers_inside_steps(stage, number):
    code, output, errors = stage.run(
        f"""
        def handler(number, frame):
            raise KeyboardInterrupt

        def interrupted():
            wait_for_page()
            os.kill(os.getpid(), {number:d})
            time.sleep(600)

        signal.signal(signal.SIGTERM, handler)
        signal.signal(signal.SIGINT, handler)
        def phase():
            display.step("long", interrupted)

        try:
            display.flow(lambda: display.phase("1 Environment", phase), Opening("signal {number:d}"))
        except KeyboardInterrupt:
            print("interrupted", signal.getsignal(signal.SIGTERM) is handler)
        """,
    )
    assert (code, output.strip()) == (0, "interrupted True"), errors
    stopped = ("Cancelled", "stopped; the same command continues from here")
    stage.shows(f"signal {number:d}", {"1 Environment": stopped, "long": stopped})
    assert stage.flow_run(f"signal {number:d}")["state"]["type"] == "CANCELLED"


@pytest.mark.slow
def test_what_a_killed_process_left_is_marked_crashed_for_its_run_only(stage):
    play = """
        def long():
            wait_for_page()
            print("running", flush=True)
            time.sleep(60)

        def phase():
            display.step("long", long)

        display.flow(lambda: display.phase("1 Environment", phase), Opening("crash", tags=["run:crash"]))
        """
    process = stage.start(play)
    assert process.stdout.readline() == "running\n"
    stage.shows("crash", {"1 Environment": ("Running", None), "long": ("Running", None)})
    process.kill()
    process.communicate()
    assert stage.flow_run("crash")["state"]["type"] == "RUNNING"
    _, output, _ = stage.run('print(server.mark_crashed("run:other"), server.mark_crashed("run:crash"))')
    assert output.strip() == "0 1"
    assert stage.flow_run("crash")["state"]["type"] == "CRASHED"
    assert {state for state, _ in stage.shown("crash").values()} == {"Crashed"}
