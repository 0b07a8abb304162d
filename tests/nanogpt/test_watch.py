"""nanogpt watch: what it reads, its screen at two sizes, its lines in a pipe, its page in a browser."""

import io
import json
import math
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from nanogpt import cli, durable
from nanogpt.living import born
from nanogpt.records import to_json
from nanogpt.serving.settings import Settings
from nanogpt.watch import chart, terminal
from nanogpt.watch.server import create_app
from nanogpt.watch.views import Series, in_a_line
from nanogpt.watch.watched import Watched
from tests.conftest import CHECKOUT
from tests.load import allowed
from tests.nanogpt import watch_case as case

NANOGPT = [sys.executable, "-m", "nanogpt.cli", "watch"]
DEAD = 2**22 + 1  # above Linux' highest process id


def shown(view, width: int, height: int | None) -> str:
    screen = io.StringIO()
    Console(file=screen, width=width, highlight=False).print(terminal.screen(view, width, height))
    return screen.getvalue()


# What it reads


def test_a_training_is_read_with_its_curves_samples_and_time_left(tmp_path):
    view = Watched(case.make_training(tmp_path / "micro")).view()
    (model,) = view.models
    assert (model.state, model.step, model.expected_steps, model.eta_seconds) == ("training", 300, 1000, 70.0)
    assert model.validation.steps == [100, 200, 300] and model.best_step == 300
    assert len(model.smooth.steps) == len(model.smooth.seconds) == len(model.smooth.values) == 75
    assert model.samples[-1].text.startswith("To be") and not view.is_over and view.run is None
    case.finish(tmp_path / "micro")
    assert Watched(tmp_path / "micro").view().is_over


def test_what_is_written_meanwhile_is_seen_by_the_next_look(tmp_path):
    watched = Watched(case.make_training(tmp_path / "micro"))
    before = watched.view().models[0]
    case.add_rows(tmp_path / "micro/metrics.jsonl", {"kind": "eval", "step": 400, "val_loss": 1.2, "seconds": 40.0})
    case.add_rows(tmp_path / "micro/events.jsonl", {"event": "rewound", "step": 400, "time": 1.0, "message": "NaN"})
    after = watched.view()
    assert before.validation.steps == [100, 200, 300] and after.models[0].validation.steps == [100, 200, 300, 400]
    assert after.happenings[-1].what == "rewound: NaN" and after.happenings[-1].is_trouble


def test_a_trainer_that_died_is_silent_and_one_that_failed_says_why(tmp_path):
    folder = case.make_training(tmp_path / "micro", age=600)
    view = Watched(folder).view()
    assert view.is_silent and view.models[0].silent_seconds >= 600
    (folder / "outcome.json").write_text('{"symptom": "non_finite", "message": "loss is NaN"}')
    view = Watched(folder).view()
    assert (view.models[0].state, view.models[0].note, view.is_over) == ("failed", "loss is NaN", True)


def test_damaged_rows_and_values_that_are_no_numbers_are_left_out(tmp_path):
    folder = case.make_training(tmp_path / "micro")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(
            '{"kind": "train", "step": 301, "loss": null, "seconds": 1}\n{"kind": "eval", "step": 302}\n["x"]\n{"tor'
        )
    (folder / "samples.jsonl").write_text('{"step": "x"}\n')
    (folder / "heartbeat").write_text("{")
    (model,) = Watched(folder).view().models
    assert model.smooth.steps[-1] < 301 and model.validation.steps == [100, 200, 300] and model.samples == []


HOSTILE = [
    ("checkpoints/default/tiny_model/heartbeat", "time", -math.inf),
    ("checkpoints/default/tiny_model/heartbeat", "seconds", math.inf),
    ("checkpoints/default/tiny_model/heartbeat", "eta_seconds", math.nan),
    ("checkpoints/default/tiny_model/metrics.jsonl", "step", 10**400),
    ("checkpoints/default/tiny_model/metrics.jsonl", "step", None),
    ("checkpoints/default/tiny_model/metrics.jsonl", "val_loss", 10**400),
    ("checkpoints/default/tiny_model/metrics.jsonl", "val_loss", 1e308),
    ("checkpoints/default/tiny_model/metrics.jsonl", "bits_per_byte", "2"),
    ("checkpoints/default/tiny_model/samples.jsonl", "text", "\ud800"),
    ("checkpoints/default/tiny_model/events.jsonl", "time", math.nan),
    ("checkpoints/default/tiny_model/events.jsonl", "time", 1e14),
    ("state/default/session.json", "pid", 10**30),
    ("state/default/clock.json", "spent_seconds", math.nan),
]


def test_no_value_in_a_file_ends_the_view(tmp_path):
    """The screen is drawn, and the page's answer is JSON, without NaN."""
    folder = case.make_run(tmp_path) / "tiny_model"
    watched = Watched(tmp_path)
    for name, key, value in HOSTILE:
        file = tmp_path / name
        whole = file.read_text()
        *before, last = whole.splitlines() if file.suffix == ".jsonl" else [whole]
        row = {other: kept for other, kept in json.loads(last).items() if other not in (key, "sha256")}
        best = {"val_loss": 0.1} if "metrics" in name else {}  # the figures of the best one are shown
        damaged = {**row, **best, **({} if value is None else {key: value})}
        file.write_text("\n".join([*before, json.dumps(damaged)]) + "\n")
        view = watched.view()
        shown(view, 120, 40)
        json.dumps(to_json(view), allow_nan=False, ensure_ascii=False).encode()
        file.write_text(whole)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write("[" * 100_000 + "\n")
    assert watched.view().models[1].validation.steps == [100, 200, 300]


def test_a_run_has_its_phases_all_its_models_its_remedies_and_the_time_left(tmp_path):
    view = Watched(case.make_run(tmp_path)).view()
    assert [(model.name, model.state) for model in view.models] == [
        ("micro", "finished"), ("tiny_model", "training"), ("small_model", "waiting"),
    ]  # fmt: skip
    assert [phase.state for phase in view.run.phases] == ["done"] * 4 + ["running", "waiting"]
    assert view.run.eta_seconds == 70.0 + 500.0 + 80.0
    assert 100 <= view.run.spent_seconds < 200 and view.title == "run default"
    assert view.happenings[0].what == "out_of_memory: killed -> half the micro-batch"
    assert not view.is_over and not view.is_silent


def test_steps_that_a_clock_decides_are_shown_as_an_estimate(tmp_path):
    folder = case.make_run(tmp_path)
    case.beat(folder / "tiny_model", replace(case.HEARTBEAT, expected_steps=420, is_estimate=True))
    plan = tmp_path / "state/default/plan.json"
    facts = json.loads(plan.read_text())
    facts["ladder"][2] |= {"tokens": 140 * 8 * 3 * 64, "batch_size": 8, "gradient_accumulation": 3, "block_size": 64}
    durable.write_json(plan, facts)
    view = Watched(folder).view()
    screen = shown(view, 110, 40)
    assert "300 of about 420" in screen and "0 of about 140" in screen and "1,000/1,000" in screen
    assert "step 300 of about 420" in in_a_line(view.models[1])


def test_what_is_spent_does_not_follow_the_calendar(tmp_path):
    folder, clock = case.make_run(tmp_path), tmp_path / "state/default/clock.json"
    spent = {"budget_seconds": 1000.0, "spent_seconds": 100.0, "finished": False}
    for noted_at, shown in (({"noted_at": time.monotonic() - 20}, 120), ({}, 100)):
        durable.write_note(clock, spent | noted_at)
        os.utime(clock, (time.time() - 36000, time.time() - 36000))  # it was set ahead by ten hours since
        assert Watched(folder).view().run.spent_seconds == pytest.approx(shown, abs=15)


def test_a_workspace_means_its_latest_run_and_a_killed_one_is_interrupted(tmp_path):
    session = case.make_run(tmp_path, pid=DEAD).parents[1] / "state/default/session.json"
    view = Watched(tmp_path).view()
    assert (view.run.state, view.is_over) == ("interrupted", True)
    assert [phase.state for phase in view.run.phases] == ["done"] * 4 + ["waiting"] * 2
    note, _ = durable.read_note(session)
    durable.write_note(session, note | {"pid": os.getpid(), "born": born(os.getpid()) - 60})  # its number is another's
    assert Watched(tmp_path).view().run.state == "interrupted"


def test_a_run_that_failed_says_in_which_phase_and_why(tmp_path):
    view = Watched(case.make_run(tmp_path, state="failed")).view()
    assert (view.run.state, view.run.phases[5].state, view.is_over) == ("failed", "failed", True)
    assert (view.happenings[-1].where, view.happenings[-1].what) == (
        "6 Evaluation", "failed: the model has not learned",
    )  # fmt: skip
    assert view.run.phases[5].trouble == "failed: the model has not learned"
    assert [phase.trouble for phase in view.run.phases[:5]] == [""] * 5


def test_while_a_run_goes_on_without_a_phase_it_says_why_in_one_line(tmp_path):
    folder, markers = case.make_run(tmp_path), tmp_path / "state/default/markers"
    failed = {"step": "dataset.bpe", "state": "failed", "failed_at": "2026-11-29T02:05:27"}
    durable.write_json(markers / "dataset.bpe.json", {**failed, "cause": "no room\n <b>left"})
    view = Watched(folder).view()
    assert (view.run.phases[3].state, view.run.phases[3].trouble) == ("failed", "failed: no room <b>left")
    assert "4 Dataset  failed: no room <b>left" in shown(view, 110, 40)


def test_a_training_that_failed_says_why_in_its_headline(tmp_path):
    folder = case.make_training(tmp_path / "micro")
    (folder / "outcome.json").write_text('{"symptom": "disk_full", "message": "no space\\nleft on device"}')
    assert shown(Watched(folder).view(), 110, 40).startswith("micro  failed: no space left on device\n")


def test_a_run_that_has_not_begun_to_train_is_shown_too(tmp_path):
    folder = case.make_run(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    view = Watched(folder).view()
    assert {model.state for model in view.models} == {"waiting"} and view.shown_model is None
    assert "run default  running" in shown(view, 80, 23)


@pytest.mark.parametrize("make, words", [
    (lambda path: None, "there is no such folder"),
    (lambda path: path.write_text(""), "is a file; expected a training's folder"),
    (lambda path: path.mkdir(), "holds no training; expected the --folder of nanogpt train"),
])  # fmt: skip
def test_a_folder_without_a_training_is_refused_in_one_line(tmp_path, make, words, capsys):
    make(tmp_path / "x")
    assert cli.main(["watch", str(tmp_path / "x")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"nanogpt: {tmp_path / 'x'}: {words}")


# In a terminal


@pytest.mark.parametrize("width, height", [(80, 23), (120, 39), (60, 12), (40, 8), (200, 60)])
def test_the_screen_fits_into_any_terminal(tmp_path, width, height):
    text = shown(Watched(case.make_run(tmp_path)).view(), width, height)
    lines = text.splitlines()
    assert len(lines) <= height and max(map(len, lines)) <= width
    assert "run default" in lines[0]
    if width >= 80:
        assert "loss of tiny_model" in text and "●" in text and "out_of_memory" in text
        assert "\\x1b[31mor not" in text and "\x1b" not in text  # a model commands no terminal


def test_a_narrow_terminal_has_fewer_columns_and_each_whole(tmp_path):
    view = Watched(case.make_run(tmp_path)).view()
    titles = next(line for line in shown(view, 60, None).splitlines() if line.startswith("model")).split()
    assert titles == ["model", "state", "step", "loss", "val", "left"]
    rows = [line for line in shown(view, 60, None).splitlines() if line.startswith(("micro ", "tiny_model "))][:2]
    assert len(rows) == 2 and "…" not in "".join(rows)


@pytest.mark.parametrize("width", [60, 84, 85, 110])
def test_phases_have_names_where_all_names_fit(tmp_path, width):
    """Else there are marks alone, and the name of the one that runs; no name is cut."""
    line = shown(Watched(case.make_run(tmp_path)).view(), width, None).splitlines()[1]
    names = [name for name in case.PHASES if name in line]
    assert names == (list(case.PHASES) if width >= 85 else ["Training"]) and "…" not in line
    assert ("5 of 6: Training" in line) == (width < 85)


def test_the_chart_falls_as_the_loss_does():
    steps = [float(step) for step in range(1, 200)]
    curve = Series(steps, steps, [4 - step / 100 for step in steps])
    lines = [line.plain for line in chart.loss_chart(curve, Series(), 60, 9)]
    marked = [next(place for place in range(8, 60) if line[place] not in " ") for line in lines[:-1]]
    assert marked == sorted(marked) and marked[0] < 15 and marked[-1] > 45
    assert lines[-1].endswith("step 199")
    assert chart.loss_chart(Series(), Series(), 60, 9) == []


@pytest.mark.slow
def test_on_a_real_terminal_it_follows_and_ends_with_the_training(tmp_path):
    folder = case.make_training(tmp_path / "micro")
    process, main = pty.fork()
    if process == 0:
        os.environ.update(TERM="xterm-256color", PYTHONPATH=str(CHECKOUT), COLUMNS="80", LINES="24")
        os.execv(sys.executable, [*NANOGPT, str(folder)])
    read = b""

    def read_until(words: bytes) -> None:
        nonlocal read
        deadline = time.monotonic() + allowed(60)
        while words not in read:
            assert time.monotonic() < deadline, read[-2000:]
            if select.select([main], [], [], 0.2)[0]:
                read += os.read(main, 65536)

    read_until(b"300/1,000")
    assert b"\x1b[?1049h" in read  # a screen of its own
    case.finish(folder)
    read_until(b"\x1b[?1049l")
    while select.select([main], [], [], allowed(5))[0]:  # what nobody reads would hold it up
        try:
            read += os.read(main, 65536)
        except OSError:  # its end
            break
    os.close(main)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert b"finished" in read.rpartition(b"\x1b[?1049l")[2]


@pytest.mark.slow
def test_in_a_pipe_it_is_lines_and_ctrl_c_ends_it_without_touching_the_training(tmp_path):
    folder = case.make_training(tmp_path / "micro")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    viewer = subprocess.Popen([*NANOGPT, str(folder)], cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert viewer.stdout.readline().startswith(b"micro  training  step 300/1,000  loss 1.900  val 1.9500")
    viewer.send_signal(signal.SIGINT)
    _, errors = viewer.communicate(timeout=allowed(30))
    assert (viewer.returncode, errors) == (0, b"")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_is_over_is_shown_once(tmp_path, capsys):
    case.make_run(tmp_path, state="finished")
    assert cli.main(["watch", str(tmp_path)]) == 0
    assert "run default  finished" in capsys.readouterr().out
    assert cli.main(["watch", str(case.make_training(tmp_path / "dead", age=600))]) == 0
    assert "Nothing works on it now" in capsys.readouterr().out
    assert cli.main(["watch", "--once", str(case.make_training(tmp_path / "live"))]) == 0
    assert "300/1,000" in capsys.readouterr().out


# On a page


def client(watched: Watched) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(watched, Settings(paths=())))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8485")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_page_is_for_this_machine_and_its_own_pages_alone(tmp_path, anyio_backend):
    async with client(Watched(case.make_run(tmp_path))) as asking:
        view = (await asking.get("/view")).json()
        assert [model["name"] for model in view["models"]] == ["micro", "tiny_model", "small_model"]
        for path in ("/", "/watch.js", "/chart.js", "/watch.css", "/colours.css", "/dom.js", "/theme.js"):
            answer = await asking.get(path)
            assert answer.status_code == 200 and "script-src 'self'" in answer.headers["content-security-policy"]
        assert (await asking.get("/view", headers={"host": "evil.example"})).status_code == 403
        assert (await asking.get("/nothing")).json()["error"]["code"] == "not_found"
        assert (await asking.get("/openapi.json")).status_code == 404


class Following:
    """`nanogpt watch --page` as a process."""

    def __init__(self, folder: Path):
        self.process = subprocess.Popen(
            [*NANOGPT, str(folder), "--page", "--port", "0"], cwd=CHECKOUT, stderr=subprocess.PIPE, text=True
        )
        self.url = re.search(r"http://127\.0\.0\.1:\d+", self.process.stderr.readline())[0]

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=allowed(30))
        return self.process.returncode


@pytest.mark.slow
@pytest.mark.xdist_group("page")
@pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("chromedriver")), reason="no chromium here")
def test_the_page_in_a_browser_follows_a_run_and_fits_a_phone(tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver")
    folder = case.make_run(tmp_path)
    case.add_rows(
        folder / "tiny_model/events.jsonl",
        {"event": "rewound", "step": 1, "time": time.time(), "message": "<img src=x onerror=document.title='taken'>"},
    )
    following = Following(folder)
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options)

    def text(selector: str) -> str:
        return browser.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", selector)

    def wait(condition) -> None:
        deadline = time.monotonic() + allowed(20)
        while not condition():
            assert time.monotonic() < deadline, text("body")
            time.sleep(0.05)

    try:
        size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(following.url)
        wait(lambda: "about 10:50 left" in text("#state"))
        assert text("#phases .running").startswith("▶ Training")
        assert len(browser.find_elements("css selector", "#loss .curve")) == 2
        assert len(browser.find_elements("css selector", "#loss .point")) == 6
        assert "onerror" in text("#happenings .is-trouble") and browser.title != "taken"
        assert browser.execute_script("return document.documentElement.scrollWidth") == 390
        case.finish(folder / "tiny_model")
        wait(lambda: "finished: all its steps were done" in text("#models article:nth-child(2)"))
        assert [entry["message"] for entry in browser.get_log("browser")] == []
        assert following.end() == 0
        wait(lambda: "does not answer: what you see is its last answer" in text("#trouble"))
    finally:
        browser.quit()
        following.process.kill()
