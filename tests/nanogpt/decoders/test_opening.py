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

from nanogpt.decoders import choosing
from nanogpt.decoders.c_decoder import SOURCE, CDecoder
from nanogpt.decoders.opening import OpenedModel, open_decoder
from nanogpt.export import huggingface
from nanogpt.faults import UserError
from nanogpt.native.c_source import CSource
from nanogpt.native.cache_folder import VARIABLE
from nanogpt.native.unavailable import Unavailable
from nanogpt.tokenizers.characters import CharTokenizer
from tests.nanogpt.decoders.decoder_case import arrays_of, assert_close, expected_logits
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
    library = SOURCE.load()
    monkeypatch.setattr(CSource, "load", lambda source, notify: library)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(choosing, "SECONDS", 0.001)
    monkeypatch.setattr(choosing, "LEAST_SHARE", 0.0)  # the suite itself keeps the machine busy
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
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
    monkeypatch.setattr(choosing, "seconds_of_a_step", lambda decoder, texts=1: pytest.fail("measured again"))
    again = opening().decoder
    assert (again.name, again.description) == (first.name, first.description)


def test_a_large_model_says_that_it_is_measured(opening, monkeypatch):
    monkeypatch.setattr(choosing, "LARGE", 0)
    opening()
    assert opening.messages == [choosing.MEASURING]
    opening()
    assert opening.messages == []


def test_a_choice_of_a_busy_machine_is_forgotten_soon(opening, monkeypatch):
    speeds = {"c": 1.0, "onnxruntime": 2.0}
    monkeypatch.setattr(choosing, "seconds_of_a_step", lambda decoder, texts=1: speeds[decoder.name])
    now = time.time()
    monkeypatch.setattr(os, "getloadavg", lambda: (choosing.cores() + 0.5, 0.0, 0.0))
    assert opening().decoder.name == "c"
    speeds["c"] = 3.0
    monkeypatch.setattr(time, "time", lambda: now + choosing.BUSY_SECONDS / 2)
    assert opening().decoder.name == "c"  # not measured at every opening, which takes half a second
    monkeypatch.setattr(time, "time", lambda: now + choosing.BUSY_SECONDS + 60)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    assert opening().decoder.name == "onnxruntime"
    speeds["c"] = 1.0
    monkeypatch.setattr(time, "time", lambda: now + 100 * choosing.BUSY_SECONDS)
    assert opening().decoder.name == "onnxruntime"  # measured on an idle machine: kept


def test_a_processor_that_others_take_is_a_busy_machine(opening, monkeypatch):
    monkeypatch.setattr(choosing, "LEAST_SHARE", 0.9)
    monkeypatch.setattr(choosing, "seconds_of_a_step", lambda decoder, texts=1: time.sleep(0.01) or 1.0)
    measurement = choosing.Measurement()
    decoder = opening("c").decoder
    assert not measurement.was_busy
    measurement.fastest_threads(decoder)
    assert measurement.was_busy


def test_measured_again_when_that_is_asked_for(opening, monkeypatch):
    speeds = {"c": 1.0, "onnxruntime": 2.0}
    monkeypatch.setattr(choosing, "seconds_of_a_step", lambda decoder, texts=1: speeds[decoder.name])
    assert opening().decoder.name == "c"
    speeds["c"] = 3.0
    assert [opening(way).decoder.name for way in ("auto", "measure", "auto")] == ["c", "onnxruntime", "onnxruntime"]


def test_the_fastest_is_taken_with_its_threads(opening, monkeypatch):
    monkeypatch.setattr(choosing, "thread_counts", lambda: [1, 2])
    speeds = {("c", 1): 5.0, ("c", 2): 3.0, ("onnxruntime", 1): 4.0, ("onnxruntime", 2): 2.0}
    monkeypatch.setattr(choosing, "seconds_of_a_step", lambda decoder, texts=1: speeds[decoder.name, decoder.threads])
    assert opening().decoder.description == "onnxruntime, float32, 2 threads"
    assert opening("c").decoder.description == "C, float32, 2 threads"


def test_a_busy_machine_does_not_slow_a_backend_down(opening, monkeypatch):
    decoder = opening("c").decoder
    step, waits = decoder.step, itertools.cycle([0.02, 0.0, 0.02])
    monkeypatch.setattr(decoder, "step", lambda *arguments: (time.sleep(next(waits)), step(*arguments))[1])
    assert choosing.seconds_of_a_step(decoder) < 0.01


def test_several_texts_may_have_other_threads_than_one(opening, monkeypatch):
    monkeypatch.setattr(choosing, "thread_counts", lambda: [1, 2])
    speeds = {(1, 1): 1.0, (2, 1): 2.0, (1, choosing.TEXTS): 4.0, (2, choosing.TEXTS): 3.0}
    monkeypatch.setattr(choosing, "seconds_of_a_step", lambda decoder, texts=1: speeds[decoder.threads, texts])
    for _ in ("measured", "remembered"):
        decoder = opening("c").decoder
        assert decoder.description == "C, float32, 1 thread, 2 for several texts"
        tokens, together = np.arange(8), decoder.new_cache()
        found = [decoder.prefill([[token] for token in tokens], together), decoder.step(tokens, together)]
        for token in tokens:
            assert_close(np.stack([each[token] for each in found]), expected_logits(MODEL, [token, token]))


def test_a_damaged_choice_is_measured_again(opening, tmp_path):
    opening()
    [note] = (tmp_path / "cache" / "choices").iterdir()
    choices = [("c", "many"), ("x", 1), ("c", 10**9), ("onnxruntime", -1)]
    for text in ("", "{}", *(json.dumps({"backend": name, "threads": threads}) for name, threads in choices)):
        note.write_text(text)
        assert_decodes(opening())


def test_without_a_compiler(opening, monkeypatch):
    def no_compiler(source, notify):
        raise Unavailable("no C compiler (cc, gcc, clang) is installed")

    monkeypatch.setattr(CSource, "load", no_compiler)
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
    with pytest.raises(UserError, match=r"precision int8: c and onnxruntime cannot be used here; allowed is float32"):
        opening(precision="int8")


def test_a_decoder_that_computes_something_else_is_passed_over(opening, monkeypatch):
    right = CDecoder.step
    monkeypatch.setattr(CDecoder, "step", lambda self, tokens, cache: right(self, tokens, cache) * np.float32(1.01))
    assert opening().decoder.name == "onnxruntime"
    [message] = opening.messages
    assert message.startswith("decoding without c: its logits differ from the model's by 0.0")


@pytest.mark.parametrize("scale", [1e18, 1e37], ids=["overflows", "infinite"])
def test_numbers_that_become_too_large_are_no_warning(monkeypatch, tmp_path, scale):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    large = {name: array * np.float32(scale) for name, array in arrays_of(MODEL).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choosing.fastest(choosing.Task(MODEL.config, large, "large", "float32", ["onnxruntime"]), print, print)


def test_where_nothing_can_be_kept_it_is_measured_each_time(opening, monkeypatch):
    def no_folder():
        raise Unavailable("others may write to the cache folder")

    monkeypatch.setattr(choosing, "cache_folder", no_folder)
    assert_decodes(opening())


def test_int8_where_it_is_asked_for(opening):
    assert "float32" in opening().decoder.description
    assert "int8" in opening(precision="int8").decoder.description
    answer = "not with backend torch; allowed is float32, or on the cpu the backends auto, c and onnxruntime"
    with pytest.raises(UserError, match=f"^precision int8: {answer}$"):
        opening("torch", precision="int8")
    with pytest.raises(UserError, match=r"^precision int8: not with device cuda; allowed is float32"):
        opening(device="cuda", precision="int8")


def test_weights_that_compute_nan_are_opened_without_warnings(opening, exported, tmp_path):
    broken = randomised(small("modern", n_embd=64, vocab_size=LETTERS.vocab_size))
    with torch.no_grad():
        broken.layers[0].feedforward.up.weight.mul_(1e30)  # finite, so the files are not refused
    huggingface.export(broken, LETTERS, tmp_path / "broken")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_decoder(tmp_path / "broken", "cpu").decoder.name in choosing.FAST


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
