"""A submission: measured whatever a way does, written without a word about a person, read from anybody."""

import errno
import getpass
import json
import os
import socket
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt import cli
from nanogpt.commands import profile
from nanogpt.config import save_config
from nanogpt.faults import UserError
from nanogpt.measure import submission, submitting
from nanogpt.measure.submission import HEADINGS
from tests.nanogpt.training_case import tiny

PRIVATE = "ada.lovelace"


class InThisProcess:
    """A worker whose second row fails as a driver might: by words that name a person's files."""

    rows = 0

    def __init__(self, log): ...

    def call(self, target, *, timeout, **arguments):
        module, _, function = target.partition(":")
        InThisProcess.rows += function == "step"
        if function == "step" and InThisProcess.rows == 2:
            raise RuntimeError(f"/Users/{PRIVATE}/lib: the operator 'aten::baddbmm' failed on {socket.gethostname()}")
        return getattr(import_module(module), function)(**arguments)

    def close(self, kill): ...


@pytest.fixture
def written(tmp_path, monkeypatch, capsys):
    """The file, and what was printed."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(submitting, "Worker", InThisProcess)
    monkeypatch.setattr(submitting, "MATRICES", (1, 8, 16))
    monkeypatch.setattr(submitting.devices, "matmul_rate", lambda *_: 1e9)
    monkeypatch.setitem(submitting.PRECISIONS, "cpu", ("float32",))
    monkeypatch.setattr(InThisProcess, "rows", 0)
    home = tmp_path / PRIVATE
    home.mkdir()
    for name in ("HOME", "USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, str(home) if name == "HOME" else PRIVATE)
    config = tiny(optimizer="muon").with_changes({"name": PRIVATE, "model.dropout": 0.0, "device.kernels": "torch"})
    save_config(config, home / "mine.yaml")
    file = home / "sent.json"
    words = ["profile", str(home / "mine.yaml"), "--vocab", "50", "--device", "cpu", "--submit", str(file)]
    assert cli.main([*words, "--seconds", "0.01"]) == 0
    torch.set_num_threads(threads)
    return file, capsys.readouterr().out


def test_a_file_to_send_has_every_way_and_says_nothing_of_a_person(written, capsys):
    file, shown = written
    text = file.read_text()
    for word in (PRIVATE, getpass.getuser(), socket.gethostname(), str(file.parent), os.getcwd(), "/Users"):
        assert word not in text
    found = submission.read(file)
    assert [(row.way.attention, row.micro_batch) for row in found.steps] == [("sdpa", 4), ("products", 4), ("sdpa", 16)]
    measured, failed, larger = found.steps
    assert failed.failed == "RuntimeError (aten::baddbmm)" and failed.step_ms is None
    for row in (measured, larger):
        assert {"forward", "backward", "Muon", "AdamW"} <= row.ms.keys() and row.step_ms > 0
        assert row.tokens_per_second == pytest.approx(1e3 * row.micro_batch * 16 / row.step_ms)
        assert row.gradient_off < 1e-5
    assert found.precisions[0].causal_error < 1e-6 and found.decoding[0].tokens_per_second > 0
    lines = shown.splitlines()
    assert len(lines) == 4 and all(line.count(" | ") == len(HEADINGS) - 1 for line in lines[:3])
    assert cli.main(["profile", "--read", str(file), str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == [*lines[:3], lines[2]]
    assert cli.main(["profile"]) == 2 and "CONFIG is missing" in capsys.readouterr().err


@pytest.mark.parametrize("changes, kernels, attentions", [
    ({}, "c-1", ["sdpa"]), ({}, "torch", ["sdpa", "products"]), ({"model.dropout": 0.1}, "c-1", ["sdpa"]),
    ({"data.cross_documents": False}, "c-1", ["sdpa", "products"]),
])  # fmt: skip
def test_where_the_kernels_attend_no_attention_is_measured_twice(monkeypatch, changes, kernels, attentions):
    monkeypatch.setattr(submitting, "choose_kernels", lambda *asked: (kernels, ""))
    config = tiny().with_changes({"model.dropout": 0.0, **changes})
    rows = [row for row in submitting._rows(config, "cpu", compiled=False) if row.way.precision == "float32"]
    assert [row.way.attention for row in rows if row.micro_batch == config.training.batch_size] == attentions


def test_of_what_macos_says_only_the_chip_is_kept(monkeypatch):
    display = {"sppci_model": "Apple M4", "sppci_cores": "10", "screens": [{"_name": PRIVATE, "serial": "C02XX"}]}
    said = {"sysctl": "Apple M4", "system_profiler": json.dumps({"SPDisplaysDataType": [display]})}
    monkeypatch.setattr(submitting.sys, "platform", "darwin")
    monkeypatch.setattr(submitting.platform, "mac_ver", lambda: ("15.3.1", ("", "", ""), "arm64"))
    monkeypatch.setattr(submitting, "_said", lambda *command: said[command[0]])
    machine = submitting.this_machine("mps")
    assert machine.chip.startswith("Apple M4, 10 GPU cores, ") and machine.system == "macOS 15.3.1"
    assert PRIVATE not in repr(machine) and "C02XX" not in repr(machine)
    assert [submitting.gpu_cores_of_mac(text) for text in ("", "[]", '{"SPDisplaysDataType": [{}]}')] == [None] * 3


def changed(value: dict, place: tuple, new: object) -> dict:
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = new
    return copy


FILE = {
    "format": "nanogpt-profile", "version": 1, "precisions": [], "decoding": [],
    "machine": {"processor": "Apple M4", "cores": 10, "gpu": "Apple GPU", "gpu_cores": 10, "memory_bytes": 24 * 2**30,
                "system": "macOS 15.3.1", "architecture": "arm64", "python": "3.12.1", "torch": "2.13.0",
                "nanogpt": "0.2.0", "device": "mps"},
    "steps": [{"model": "micro", "parameters": 800_000, "block_size": 64, "micro_batch": 12, "passes": 1,
               "way": {"precision": precision, "newton_schulz": "float32", "attention": attention, "compiled": False},
               "ms": {"forward": 9.0}, "step_ms": ms}
              for precision, attention, ms in (("float32", "sdpa", 40.0), ("float32", "products", 32.0),
                                               ("bfloat16", "sdpa", 50.0))],
}  # fmt: skip
LEAK = {"precision": "bfloat16", "causal_error": 0.21}


def test_a_row_says_which_way_is_fastest_and_what_each_choice_gains(tmp_path):
    file = tmp_path / "m4.json"
    file.write_text(json.dumps(changed(FILE, ("precisions",), [LEAK])))
    cells = dict(zip(HEADINGS, submission.row(submission.read(file), "micro"), strict=True))
    assert cells["machine"] == "Apple M4, 10 GPU cores, 24 GB"
    assert cells["fastest way"].startswith("float32, products") and cells["float32"] == "32.0"
    assert (cells["bfloat16"], cells["float16"], cells["products / sdpa"]) == ("50.0", "–", "1.25")
    assert "attention in bfloat16 without gradients is wrong" in cells[HEADINGS[-1]]


@pytest.mark.parametrize(
    "content",
    ["", "[" * 5000, "[]", "{}", json.dumps({**FILE, "version": 2}), json.dumps({**FILE, "steps": 3}),
     json.dumps(changed(FILE, ("steps", 0, "step_ms"), float("nan"))),
     json.dumps(changed(FILE, ("machine", "processor"), "x" * 300)), json.dumps({**FILE, "steps": ["|\n" * 9]}),
     " " * (2**20 + 1)],
)  # fmt: skip
def test_what_is_no_submission_is_one_line(content, tmp_path, capsys):
    (tmp_path / "sent.json").write_text(content)
    assert cli.main(["profile", "--read", str(tmp_path / "sent.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert cli.main(["profile", "--read", str(tmp_path / "absent.json")]) == 2


@settings(max_examples=25)
@given(st.text(max_size=60), st.floats() | st.integers() | st.none())
def test_whatever_a_file_says_is_a_table_or_a_refusal(tmp_path_factory, words, figure):
    file = Path(tmp_path_factory.getbasetemp()) / "any.json"
    content = changed(changed(FILE, ("machine", "processor"), words), ("steps", 0, "step_ms"), figure)
    file.write_text(json.dumps(content))
    try:
        table = submission.table([submission.read(file)])
    except UserError:
        return
    assert table.count("\n") == 3 and all(line.endswith(" |") for line in table.splitlines())


def test_what_cannot_be_written_is_said_before_the_minutes_of_measuring(tmp_path, monkeypatch, capsys):
    def full(**_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(submitting, "submission", lambda *_: pytest.fail("it was measured"))
    sent = str(tmp_path / "sent.json")
    assert cli.main(["profile", "--submit", sent, "--picture", str(tmp_path / "p.svg")]) == 2
    assert "--picture: not with --submit" in capsys.readouterr().err
    monkeypatch.setattr(profile, "TemporaryFile", full)
    assert cli.main(["profile", "--submit", sent]) == 2
    assert f"--submit {sent}: cannot be written: No space left on device" in capsys.readouterr().err


def test_the_figures_are_printed_where_the_disk_became_full_meanwhile(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    machine = submission.SubmittedMachine("chip", 1, "", None, 2**30, "Linux", "x", "3", "2", "0", "cpu")
    row = submission.StepFigures("micro", 1, 1, 1, 1, submission.Way(), step_ms=12.5)
    found = submission.Submission("nanogpt-profile", 1, machine, [], [row], [])
    monkeypatch.setattr(submitting, "submission", lambda *_: found)
    monkeypatch.setattr(submission.durable, "write_bytes", full)
    assert cli.main(["profile", "--submit", str(tmp_path / "sent.json"), "--device", "cpu"]) != 0
    shown = capsys.readouterr()
    assert "| 12.5 |" in shown.out and "written to" not in shown.out and "No space left" in shown.err
