"""The trainer as a real process: signals, and what its exit code and files say.

Its sudden death and its parent's: bench/faults/kinds/processes.py and series/kills.py, by tests/test_campaign.py.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from nanogpt import cli
from nanogpt.config import save_config
from nanogpt.faults import UserError
from nanogpt.training import child, stopping
from nanogpt.training.trainer import train
from nanogpt.weights import checkpoint
from tests.conftest import CHECKOUT
from tests.load import allowed
from tests.nanogpt.training_case import events, losses, make_data, tiny

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("train_process")]

PATIENCE = 120.0  # seconds until a test gives up; the machine may be busy


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """(configuration file, data folder, folder of the uninterrupted training, its outcome)."""
    folder = tmp_path_factory.mktemp("case")
    config = tiny(max_iters=300, eval_interval=100, checkpoint_interval=50)
    save_config(config, folder / "tiny.yaml")
    data = make_data(folder / "data")
    return folder / "tiny.yaml", data, folder / "whole", train(config, data, folder / "whole")


def start(config: Path, data: Path, folder: Path, *more: str) -> subprocess.Popen:
    """As a run starts it: --parent leaves the live line and the plot, which have tests of their own, to the parent."""
    command = [sys.executable, "-m", "nanogpt.cli", "train", str(config), "--data", str(data), "--folder", str(folder),
               "--parent", str(os.getpid())]  # fmt: skip
    return subprocess.Popen([*command, *more], cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(folder: Path, step: int, process: subprocess.Popen) -> None:
    """Until metrics.jsonl has a row of `step`."""
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        assert process.poll() is None, f"ended before step {step}"
        if any(row[1] >= step for row in losses(folder)):
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} never came")


def ended(process: subprocess.Popen) -> int:
    process.communicate(timeout=PATIENCE)
    return process.returncode


def test_a_folder_in_which_another_process_trains_is_left_alone(case, tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "SECONDS_TO_SAVE", -4.9)
    refused = pytest.raises(UserError, match="another process is training there; wait for its end")
    with child.alone_in(tmp_path), refused, child.alone_in(tmp_path):
        pytest.fail("two held it")
    with child.alone_in(tmp_path):
        pass  # it is free again


def ends_as(case, folder: Path) -> None:
    config, data, whole_folder, whole = case
    process = start(config, data, folder)
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert output.startswith("finished after 300 steps") and output.count("\n") == 1
    outcome = json.loads((folder / "outcome.json").read_text())
    assert (outcome["status"], outcome["sha256"]) == ("finished", whole.sha256)
    assert losses(folder) == losses(whole_folder)
    best, whole_best = (checkpoint.read_manifest(f / "best") for f in (folder, whole_folder))
    assert best["files"] == whole_best["files"]
    assert not (folder / "loss.svg").exists()


def test_asked_to_stop_it_saves_and_the_next_one_goes_on(case, tmp_path):
    """By SIGTERM, and the one that continues by SIGINT; on the way it shows its stacks."""
    for number, step in ((signal.SIGTERM, 40), (signal.SIGINT, 120)):
        process = start(*case[:2], tmp_path)
        wait_for_step(tmp_path, step, process)
        if hasattr(signal, "SIGUSR1"):  # not on Windows
            process.send_signal(signal.SIGUSR1)
        process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 143, errors
        assert ("most recent call first" in errors) == hasattr(signal, "SIGUSR1")
        saved = checkpoint.load_newest(tmp_path / "checkpoints", pytest.fail)
        assert saved.step >= step and not (tmp_path / "outcome.json").exists()
    ends_as(case, tmp_path)
    assert events(tmp_path, "resumed")[1]["step"] == saved.step


@pytest.mark.parametrize("mistake, words", [
    (["--set", "training.learning_rat=1"], "learning_rate"), (["--data", "nowhere"], "nowhere"),
    (["--data", "README.md"], "README.md: is a file; expected a folder of tokenised data"),
    (["--init", "nowhere"], "nowhere"), (["--set", "model.vocab_size=2"], "model.vocab_size: found 2"),
    (["--set", "model.n_layer=100000000"], "--set model.n_layer: found 100000000, should be less than or equal to"),
    (["--set", "model.n_embd=1000000000"], "--set model.n_embd: found 1000000000, should be less than or equal to"),
    (["--set", "training.learning_rate=1e300"], "--set training.learning_rate: found 1e+300, should be less than"),
    (["--set", "training.weight_decay=1e300"], "--set training.weight_decay: found 1e+300, should be less than"),
    (["--set", "device.threads=1000000000"], "--set device.threads: found 1000000000, should be less than"),
    (["--set", "training.batch_size=999999999999"], "with --set training.batch_size: training.batch_size 9"),
    (["--set", "model.n_layer=9999", "--set", "model.ffn_dim=1000000"], "for weights, gradients and moments; found"),
])  # fmt: skip
def test_a_mistake_is_one_line_and_code_2_and_nothing_is_written(case, tmp_path, monkeypatch, capsys, mistake, words):
    monkeypatch.setattr(stopping.StopRequest, "listen", lambda request: None)  # the signals here are pytest's
    monkeypatch.setattr(child, "faulthandler", types.SimpleNamespace(enable=lambda: None))
    folder = tmp_path / "new" / "model"
    assert cli.main(["train", str(case[0]), "--data", str(case[1]), "--folder", str(folder), *mistake]) == 2
    said = capsys.readouterr().err
    assert said.startswith("nanogpt: ") and said.count("\n") == 1 and words in said
    assert list(tmp_path.iterdir()) == []


def damaged(data: Path, folder: Path) -> Path:
    shutil.copytree(data, folder)
    (folder / "train.bin").write_bytes((folder / "train.bin").read_bytes()[:-10])
    return folder


def test_a_fault_is_code_3_and_a_symptom_for_the_parent(case, tmp_path):
    process = start(case[0], damaged(case[1], tmp_path / "broken"), tmp_path / "m")
    assert ended(process) == 3
    outcome = json.loads((tmp_path / "m" / "outcome.json").read_text())
    assert (outcome["status"], outcome["symptom"]) == ("failed", "corrupt_file")


def test_damaged_data_is_one_line_and_code_2_for_a_person(case, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stopping.StopRequest, "listen", lambda request: None)
    monkeypatch.setattr(child, "faulthandler", types.SimpleNamespace(enable=lambda: None))
    data = damaged(case[1], tmp_path / "broken")
    assert cli.main(["train", str(case[0]), "--data", str(data), "--folder", str(tmp_path / "m")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "train.bin" in message and "nanogpt prepare" in message
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("setting", ["gradient_accumulation", "batch_size"])
def test_a_step_of_fifteen_million_sequences_ends_when_it_is_asked_to(case, tmp_path, setting):
    process = start(*case[:2], tmp_path / "m", "--micro-batch", "1", "--set", f"training.{setting}=15000000")
    ends = time.monotonic() + PATIENCE
    while not (tmp_path / "m" / "events.jsonl").is_file() or not events(tmp_path / "m", "started"):
        assert time.monotonic() < ends and process.poll() is None
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    assert ended(process) == 143
    assert time.monotonic() - asked < allowed(10)
    assert checkpoint.load_newest(tmp_path / "m" / "checkpoints", pytest.fail).step == 0


def test_what_float16_cannot_hold_ends_as_non_finite_and_goes_on_in_float32_on_the_cpu(case, tmp_path):
    """Far too high a learning rate, with squares in the model: the flow's last remedy, by the arguments it gives."""
    config = tiny(optimizer="adamw", learning_rate=5.0, schedule="constant", warmup_iters=0)
    config = config.with_changes({"model.activation": "relu2", "device.mixed_precision": "float16"})
    save_config(config, tmp_path / "wild.yaml")
    process = start(tmp_path / "wild.yaml", case[1], tmp_path / "m")
    assert ended(process) == 3
    outcome = json.loads((tmp_path / "m" / "outcome.json").read_text())
    assert (outcome["symptom"], len(events(tmp_path / "m", "rewound"))) == ("non_finite", 3)
    remedy = ["--micro-batch", "4", "--set", "device.type=cpu", "--set", "device.mixed_precision=false"]
    process = start(tmp_path / "wild.yaml", case[1], tmp_path / "m", *remedy)
    assert ended(process) == 0
    outcome = json.loads((tmp_path / "m" / "outcome.json").read_text())
    assert (outcome["status"], outcome["step"], outcome["rewinds"]) == ("finished", 24, 0)
    assert "float16 -> float32" in events(tmp_path / "m", "computes otherwise")[-1]["message"]
