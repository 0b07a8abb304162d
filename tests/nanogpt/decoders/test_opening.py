"""A model is opened on the fastest backend that computes it; each that is passed over is reported once."""

import itertools
import json
import os
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from nanogpt.data.tokenizer import CharTokenizer
from nanogpt.decoders import choosing, compiled
from nanogpt.decoders.c_decoder import CDecoder
from nanogpt.decoders.cache_folder import VARIABLE
from nanogpt.decoders.opening import OpenedModel, open_decoder
from nanogpt.decoders.unavailable import Unavailable
from nanogpt.export import huggingface
from nanogpt.faults import UserError
from tests.nanogpt.decoders.decoder_case import assert_close, expected_logits
from tests.nanogpt.model_case import randomised, small

CHECKOUT = Path(__file__).parents[3]
LETTERS = CharTokenizer("abcdefgh \n")
MODEL = randomised(small("modern", n_embd=64, vocab_size=LETTERS.vocab_size))


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    huggingface.export(MODEL, LETTERS, folder)
    return folder


@dataclass
class Opening:
    """Opens the export with a cache folder of its own."""

    folder: Path
    messages: list[str] = field(default_factory=list)

    def __call__(self, backend: str = "auto", **options) -> OpenedModel:
        self.messages.clear()
        return open_decoder(self.folder, backend=backend, notify=self.messages.append, **options)


@pytest.fixture
def opening(exported, tmp_path, monkeypatch) -> Opening:
    """The built library is taken from the usual cache, so that one compilation serves all tests."""
    library = compiled.load()
    monkeypatch.setattr(compiled, "load", lambda: library)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(choosing, "SECONDS", 0.001)
    return Opening(exported)


def assert_decodes(opened: OpenedModel) -> None:
    cache = opened.decoder.new_cache()
    found = [opened.decoder.prefill([[1, 2, 3]], cache, every=True), opened.decoder.step(np.array([4]), cache)]
    assert_close(np.concatenate(found), expected_logits(MODEL, [1, 2, 3, 4]))


@pytest.mark.parametrize("backend", ["auto", "torch", "onnxruntime", "c"])
def test_each_backend_opens_the_model(opening, backend):
    opened = opening(backend)
    assert backend in ("auto", opened.decoder.name)
    assert opened.tokenizer.digest == LETTERS.digest and opened.path == opening.folder
    assert_decodes(opened)
    assert opening.messages == []


def test_the_choice_is_measured_once(opening, monkeypatch):
    first = opening().decoder
    monkeypatch.setattr(choosing, "seconds_of_a_step", lambda decoder: pytest.fail("measured again"))
    again = opening().decoder
    assert (again.name, again.description) == (first.name, first.description)


def test_the_fastest_is_taken_with_its_threads(opening, monkeypatch):
    monkeypatch.setattr(choosing, "thread_counts", lambda: [1, 2])
    speeds = {("c", 1): 5.0, ("c", 2): 3.0, ("onnxruntime", 1): 4.0, ("onnxruntime", 2): 2.0}
    monkeypatch.setattr(choosing, "seconds_of_a_step", lambda decoder: speeds[decoder.name, decoder.threads])
    assert opening().decoder.description == "onnxruntime, float32, 2 threads"
    assert opening("c").decoder.description == "C, float32, 2 threads"


def test_a_busy_machine_does_not_slow_a_backend_down(opening, monkeypatch):
    decoder = opening("c").decoder
    step, waits = decoder.step, itertools.cycle([0.02, 0.0, 0.02])
    monkeypatch.setattr(decoder, "step", lambda *arguments: (time.sleep(next(waits)), step(*arguments))[1])
    assert choosing.seconds_of_a_step(decoder) < 0.01


def test_a_damaged_choice_is_measured_again(opening, tmp_path):
    opening()
    [note] = (tmp_path / "cache" / "choices").iterdir()
    for text in ("", "{}", json.dumps({"backend": "c", "threads": "many"}), json.dumps({"backend": "x", "threads": 1})):
        note.write_text(text)
        assert_decodes(opening())


def test_without_a_compiler(opening, monkeypatch):
    def no_compiler():
        raise Unavailable("no C compiler (cc, gcc, clang) is installed")

    monkeypatch.setattr(compiled, "load", no_compiler)
    opened = opening()
    assert opened.decoder.name == "onnxruntime"
    assert opening.messages == ["decoding without c: no C compiler (cc, gcc, clang) is installed"]
    assert_decodes(opened)
    opening()
    assert opening.messages == []  # reported once
    with pytest.raises(UserError, match=r"^backend c: no C compiler \(cc, gcc, clang\) is installed$"):
        opening("c")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    opened = opening()
    assert opened.decoder.name == "torch"
    assert opening.messages[1] == "decoding without onnxruntime: it is not installed"
    assert_decodes(opened)
    reasons = "decoding without c: no C compiler .*; decoding without onnxruntime: it is not installed"
    with pytest.raises(UserError, match=f"^precision int8: torch has float32; {reasons}$"):
        opening(precision="int8")


def test_a_decoder_that_computes_something_else_is_passed_over(opening, monkeypatch):
    right = CDecoder.step
    monkeypatch.setattr(CDecoder, "step", lambda self, tokens, cache: right(self, tokens, cache) * np.float32(1.01))
    assert opening().decoder.name == "onnxruntime"
    [message] = opening.messages
    assert message.startswith("decoding without c: its logits differ from the model's by 0.0")


def test_weights_that_compute_nan_open_without_a_warning(opening, tmp_path):
    model = randomised(small("modern", n_embd=64, vocab_size=LETTERS.vocab_size))
    with torch.no_grad():
        model.layers[0].feedforward.up.weight[:] = 1e30  # finite, unlike what is computed of it
    huggingface.export(model, LETTERS, tmp_path / "broken")
    opening.folder = tmp_path / "broken"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoder = opening().decoder
    assert np.isnan(decoder.prefill([[1, 2]], decoder.new_cache())).any()


def test_where_nothing_can_be_kept_it_is_measured_each_time(opening, monkeypatch):
    def no_folder():
        raise Unavailable("others may write to the cache folder")

    monkeypatch.setattr(choosing, "cache_folder", no_folder)
    assert_decodes(opening())


def test_int8_where_it_is_asked_for(opening):
    assert "float32" in opening().decoder.description
    assert "int8" in opening(precision="int8").decoder.description
    with pytest.raises(
        UserError, match=r"^precision int8: torch has float32; c and onnxruntime have both, on the CPU$"
    ):
        opening("torch", precision="int8")
    with pytest.raises(UserError, match=r"^precision int8: torch, which computes on cuda, has float32; c and"):
        opening(precision="int8", device="cuda")


def test_mistakes_are_named(opening):
    with pytest.raises(UserError, match=r'backend onnx: allowed are auto, .*did you mean "onnxruntime"'):
        opening("onnx")
    with pytest.raises(UserError, match="backend c: computes on the CPU alone, not on cuda"):
        opening("c", device="cuda")


@pytest.mark.slow
def test_torch_is_not_imported(opening, tmp_path):
    program = (
        "import sys; from nanogpt.decoders.opening import open_decoder; decoder = open_decoder(sys.argv[1]).decoder; "
        "decoder.prefill([[1]], decoder.new_cache()); assert 'torch' not in sys.modules, sorted(sys.modules)"
    )
    command = [sys.executable, "-c", program, str(opening.folder)]
    for _ in ("measured", "remembered"):
        subprocess.run(command, cwd=CHECKOUT, env={**os.environ, VARIABLE: str(tmp_path)}, check=True, timeout=120)
