"""The device: what is not there is said, and one that computes wrongly is passed over."""

import json
import os
import subprocess
import sys

import pytest
import torch

from nanogpt import device, machine
from nanogpt.commands.arguments import chosen_device
from nanogpt.records import from_json, to_json
from nanogpt.results.machine import DeviceProof

pytestmark = pytest.mark.fast


def test_a_device_that_is_not_there_is_said_and_what_is_there_is_taken(monkeypatch):
    monkeypatch.setattr(device, "available", lambda: ["cpu"])
    chosen = device.choose("mps")
    assert chosen.device == "cpu" and "mps is not on this machine; taking cpu" in chosen.warning
    assert device.choose("auto") == device.choose("cpu") == device.Chosen("cpu")


def test_the_best_there_is_comes_first(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device.available() == ["mps", "cpu"]
    assert device.choose("auto").device == "mps"
    assert device.choose("cuda").device == "mps" and "cuda" in device.choose("cuda").warning


def test_without_a_gpu_in_sight_nothing_is_loaded_to_look_for_one(monkeypatch):
    monkeypatch.setattr(machine, "ACCELERATORS", ("/dev/null",))
    assert machine.may_have_accelerator()
    monkeypatch.setattr(device, "available", lambda: ["cuda", "cpu"])
    assert chosen_device("auto") == "cuda" and chosen_device("cpu") == "cpu"
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(machine, "ACCELERATORS", ("/dev/absent",))
    assert chosen_device("auto") == "cpu"


@pytest.mark.parametrize("error", [0.5, float("nan"), RuntimeError("MPSGraph failed\nwith details")])
def test_a_device_that_computes_wrongly_is_passed_over(monkeypatch, error):
    honest = device._relative_error

    def measured(name):
        if name == "cpu":
            return honest("cpu")
        if isinstance(error, Exception):
            raise error
        return error

    monkeypatch.setattr(device, "available", lambda: ["mps", "cpu"])
    monkeypatch.setattr(device, "_relative_error", measured)
    monkeypatch.setattr(device, "matmul_rate", lambda *_: 1e9)
    proof = device.prove("mps")
    assert from_json(DeviceProof, json.loads(json.dumps(to_json(proof), allow_nan=False))) == proof
    assert proof.device == "cpu" and proof.max_relative_error < device.LARGEST_RELATIVE_ERROR
    assert proof.warning.startswith("device.type mps: ") and "\n" not in proof.warning
    assert [candidate.works for candidate in proof.candidates] == [False, True]


def test_memory_is_counted_in_bytes():
    held = device.memory_in_use("cpu")
    assert 10e6 < held <= device.peak_memory("cpu") * 1.05


@pytest.mark.parametrize("name, precision, teraflops", [
    ("NVIDIA A100-SXM4-80GB", "bfloat16", 312), ("NVIDIA A10", "bfloat16", 125),
    ("NVIDIA H100 80GB HBM3", "float16", 989), ("NVIDIA H100 PCIe", "bfloat16", 756),
    ("NVIDIA A100-PCIE-40GB", "float32", 156), ("Tesla T4", "float16", 65),
])  # fmt: skip
def test_a_known_card_has_its_makers_rate(name, precision, teraflops):
    assert device.peak_rate(name, precision) == teraflops * 1e12


@pytest.mark.parametrize("name, precision", [
    ("NVIDIA A1000", "bfloat16"), ("Tesla T4", "bfloat16"), ("Tesla V100-SXM2-16GB", "float32"), ("", "float16"),
])  # fmt: skip
def test_no_rate_is_made_up(name, precision):
    assert device.peak_rate(name, precision) is None


@pytest.mark.parametrize("given, expected", [({}, "1.0 0.8"), ({"PYTORCH_MPS_HIGH_WATERMARK_RATIO": "0.7"}, "0.7 0.8")])
def test_metals_limits_are_set_before_torch_reads_them_and_a_persons_own_stay(given, expected):
    names = ("PYTORCH_MPS_HIGH_WATERMARK_RATIO", "PYTORCH_MPS_LOW_WATERMARK_RATIO")
    code = f"import nanogpt, os, sys; assert 'torch' not in sys.modules; print(*(os.environ[n] for n in {names}))"
    environment = {key: value for key, value in os.environ.items() if key not in names} | given
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == expected
