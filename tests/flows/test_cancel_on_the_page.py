"""Cancel on the page is Ctrl-C: the whole command saves, stops and says how to continue; the page says Cancelled."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

import httpx
import pytest

from tests.conftest import free_port
from tests.load import allowed

CHECKOUT = Path(__file__).resolve().parents[2]
SMALL = """\
model: {preset: modern, n_layer: 2, n_head: 2, n_embd: 32, block_size: 32, dropout: 0.1}
training: {batch_size: 8, gradient_accumulation: 2, max_iters: 20000, warmup_iters: 10, eval_interval: 500,
           sample_interval: 2000, checkpoint_interval: 1000, log_interval: 5, learning_rate: 0.01}
data: {tokenizer: char}
device: {type: cpu, mixed_precision: false, threads: 1}
"""
PATIENCE = 300.0
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cancel_on_the_page")]


class RunWithPages:
    """The whole command, and its server asked as a page would ask."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.workspace = folder / "workspace"
        (folder / "small.yaml").write_text(SMALL)
        (folder / "text.txt").write_text("\n\n".join(topics[name] for name in sorted(topics))[:60_000])
        self.environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
        command = [
            sys.executable, "-m", "flows.full_run", "--no-bootstrap", "--workspace", str(self.workspace), "--config",
            str(folder / "small.yaml"), "--data", str(folder / "text.txt"), "--budget", "9m", "--set", "tests=false",
            "--set", "milestones=false", "--set", f"port={port}",
        ]  # fmt: skip
        self.process = subprocess.Popen(command, cwd=CHECKOUT, env=self.environment, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip

    def ask(self, path: str, question: dict) -> list[dict]:
        answer = httpx.post(f"{self.url}/api/{path}", json=question, headers={"Origin": self.url}, timeout=30)
        return answer.raise_for_status().json()

    def flow_run(self) -> dict:
        return self.ask("flow_runs/filter", {})[0]

    def is_training(self) -> bool:
        metrics = list(self.workspace.glob("checkpoints/default/*/metrics.jsonl"))
        return bool(metrics) and '"train"' in metrics[0].read_text()

    def saved_step(self) -> int:
        return max(int(path.name[5:]) for path in self.workspace.glob("checkpoints/default/*/checkpoints/step-*"))

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        home = str(self.workspace / "state/.prefect")
        subprocess.run([sys.executable, "-m", "flows.prefect_server", "stop", home], cwd=CHECKOUT, env=self.environment)


@pytest.fixture
def run(tmp_path) -> Iterator[RunWithPages]:
    run = RunWithPages(tmp_path)
    yield run
    run.close()


def wait_for(condition: Callable[[], object], run: RunWithPages) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert run.process.poll() is None, run.process.stdout.read()[-3000:]
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)


def press_cancel(run: RunWithPages) -> None:
    """In a browser, as a person does; where there is none, with the request that the button sends."""
    flow_run = run.flow_run()["id"]
    try:
        from selenium import webdriver
    except ImportError:
        webdriver = None
    if webdriver is None or not (shutil.which("chromium") and shutil.which("chromedriver")):
        run.ask(f"flow_runs/{flow_run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
        return
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.implicitly_wait(60)
        browser.get(f"{run.url}/runs/flow-run/{flow_run}")
        for name in ("Cancel", "Confirm"):
            browser.find_element("xpath", f"//button[contains(., '{name}') and not(@disabled)]").click()
        deadline = time.monotonic() + 30
        while run.flow_run()["state"]["type"] == "RUNNING":
            assert time.monotonic() < deadline, "the button did nothing"
            time.sleep(0.05)
    finally:
        browser.quit()


def test_cancel_saves_and_stops_within_ten_seconds(run):
    wait_for(run.is_training, run)
    press_cancel(run)
    began = time.monotonic()
    said, _ = run.process.communicate(timeout=120)
    assert time.monotonic() - began < allowed(10)
    assert run.process.returncode == 130
    assert "cancelled on its page" in said and "continue with:" in said and "Traceback" not in said
    state = run.flow_run()["state"]
    assert (state["type"], state["name"]) == ("CANCELLED", "Cancelled")
    assert run.saved_step() % 1000 > 0  # saved when it stopped, not at an interval
