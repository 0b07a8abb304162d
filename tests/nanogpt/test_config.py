"""Configurations: what a file means, what the shipped ones hold, and every mistake in one line that names it."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.config import PRESETS, Config, DataConfig, ModelConfig, load_config, save_config
from nanogpt.faults import UserError

pytestmark = pytest.mark.fast
CONFIGS = Path(__file__).parents[2] / "configs"


def written(folder: Path, text: str) -> Path:
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    return folder / "mine.yaml"


def test_tiny_shakespeare_holds_the_missions_values():
    config = load_config(CONFIGS / "tiny_shakespeare.yaml")
    model, training, device = config.model, config.training, config.device
    assert (model.n_layer, model.n_head, model.n_embd, model.dropout, model.block_size) == (6, 6, 384, 0.2, 256)
    assert (training.batch_size, training.learning_rate, training.max_iters) == (12, 3e-4, 5000)
    assert (training.warmup_iters, training.eval_interval, training.gradient_accumulation) == (100, 500, 4)
    assert (device.type, device.mixed_precision, device.compile) == ("mps", False, False)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_line_of_a_shipped_model_says_what_it_does(path):
    load_config(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith(" ") and "#" not in line] == []


def test_numbers_may_be_written_in_any_notation(tmp_path):
    text = "training: {learning_rate: 3e-4, max_iters: 1e3, warmup_iters: '10', seed: 0}"
    training = load_config(written(tmp_path, text), ["training.muon_learning_rate=2E-2"]).training
    assert (training.learning_rate, training.max_iters, training.warmup_iters) == (3e-4, 1000, 10)
    assert training.muon_learning_rate == 0.02


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fills_what_is_not_given_and_no_more(preset):
    other = {"gpt2": "relu2", "modern": "gelu"}[preset]
    config = ModelConfig(preset=preset, activation=other).model_dump()
    assert {key: config[key] for key in PRESETS[preset]} == PRESETS[preset] | {"activation": other}


@given(width=st.integers(1, 4096).map(lambda heads: 2 * heads))
def test_three_matrices_of_swiglu_are_no_larger_than_two_of_the_others_but_for_rounding(width):
    swiglu, gelu = (ModelConfig(n_head=1, n_embd=width, activation=name).ffn_width for name in ("swiglu", "gelu"))
    assert swiglu % 32 == 0 and gelu == 4 * width
    assert 0 <= swiglu - 8 * width // 3 < 32


def test_what_was_saved_is_read_back_equal(tmp_path):
    config = load_config(CONFIGS / "micro.yaml").with_changes({"model.vocab_size": 66, "device.threads": 2})
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


MISTAKES = {
    "a list for a name": ("model: {preset: [gpt2]}", "model.preset: found ['gpt2'], should be 'gpt2' or 'modern'"),
    "a control character": ("name: a\x07", "is not valid YAML: unacceptable character"),
    "not a number": ("model: {dropout: .nan}", "model.dropout: found nan"),
    "infinity": ("training: {learning_rate: .inf}", "training.learning_rate: found inf"),
    "half a layer": ("model: {n_layer: 1.5}", "model.n_layer: found 1.5"),
    "less than none": ("training: {batch_size: -3}", "training.batch_size: found -3, should be greater than"),
    "a seed torch does not take": ("training: {seed: 1e30}", "training.seed: found"),
    "no source": ("data: {source: ''}", "data.source: found ''"),
    "an odd head": ("model: {n_head: 2, n_embd: 6}", "rotary positions need an even head width, found 3"),
    "key heads that do not divide": ("model: {n_head: 6, n_kv_head: 4}", "n_head 6 is not divisible by n_kv_head 4"),
    "an unknown key": ("training: {learning_rat: 1}", 'unknown key (did you mean "learning_rate"?)'),
    "initials": ("training: {lr: 1}", 'training.lr: unknown key (did you mean "learning_rate"?)'),
    "without its section": ("learning_rate: 1", 'learning_rate: unknown key (did you mean "training.learning_rate"?)'),
    "in another section": ("model: {batch_size: 1}", 'unknown key (did you mean "training.batch_size"?)'),
    "no text as a key": ("training: {1: 2}", "training.1: unknown key"),
    "one of several types": ("device: {mixed_precision: bf16}", "device.mixed_precision: found 'bf16', should be "
                             "true or false, or be 'auto', 'bfloat16' or 'float16' (did you mean \"bfloat16\"?)"),
    "text or a list": ("data: {mirror: 3}", "data.mirror: found 3, should be a valid string, or be a valid list"),
    "an empty list": ("training: {sample_temperatures: []}", "found [], should have at least 1 item"),
    "true is no number": ("training: {learning_rate: true}", "training.learning_rate: found true, should be a number"),
    "nor a whole one": ("training: {max_iters: true}", "training.max_iters: found true, should be a number"),
    "nor one of a list": ("training: {sample_temperatures: [1, false]}", "should be a number"),
    "nor one that may be null": ("training: {max_seconds: true}", "max_seconds: found true, should be a number"),
    "yes is no number": ("training: {max_iters: yes}", "training.max_iters: found 'yes', should be an integer"),
    "nor are minutes": ("training: {max_iters: 1:30}", "training.max_iters: found '1:30', should be an integer"),
    "octal": ("training:\n  max_iters: 010", "line 2: found 010, octal to some readers; write 10"),
    "a key twice": ("training:\n  seed: 1\n  seed: 2", 'line 3: the key "seed" is in line 2 already'),
    "an encoding of nobody": ("data: {encoding: windows-1521}", "data.encoding: found 'windows-1521', should be auto "
                              "or an encoding that Python knows (did you mean \"windows_1252\"?)"),
    "not of texts": ("data: {encoding: hex}", "data.encoding: found 'hex'"),
    "very deep": ("training: {seed: " + "[" * 90 + "]" * 90 + "}", "training.seed: found [[[[[["),
    "very long": ("training: {seed: " + "9" * 4000 + "}", "training.seed: found"),
}  # fmt: skip


@pytest.mark.parametrize("text, words", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_that_names_file_key_and_finding(text, words, tmp_path):
    with pytest.raises(UserError) as caught:
        load_config(written(tmp_path, text))
    said = str(caught.value)
    assert said.startswith(str(tmp_path / "mine.yaml")) and words in said and "\n" not in said
    assert len(said) < len(str(tmp_path)) + 300


@pytest.mark.parametrize(
    "override, words",
    [
        ("training.max_iters=010", "--set training.max_iters=010: found 010, octal"),
        ("training.max_iters=1:30", "--set training.max_iters: found '1:30'"),
        ("training.learning_rate=true", "--set training.learning_rate: found true, should be a number"),
        ("training.lr=1", '--set training.lr: unknown key (did you mean "training.learning_rate"?)'),
        ("learning_rate=1", '--set learning_rate: unknown key (did you mean "training.learning_rate"?)'),
        ("data.mirror=https://me:secret@host: [", "--set data.mirror=https://***@host: [: the value is not valid YAML"),
        ("data.mirror={a: https://me:secret@host}", "'https://***@host'"),
        ("training.seed=" + "[" * 100_000, "is nested too deeply"),
        ("training.seed" + ".a" * 100_000 + "=1", "training.seed: found {"),
    ],
)
def test_a_mistake_of_the_command_line_is_one_line_too(override, words):
    with pytest.raises(UserError) as caught:
        load_config(CONFIGS / "micro.yaml", [override])
    assert words in str(caught.value) and "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_a_password_is_used_and_never_written_down(tmp_path):
    for mirror in ("https://me:secret@host/a", ["/b", "https://me:secret@host/a"]):
        config = load_config(CONFIGS / "micro.yaml").with_changes({"data.mirror": mirror, "training.seed": 3})
        assert config.with_changes({"training.seed": 4}).data.mirrors[-1] == "https://me:secret@host/a"
        save_config(config, tmp_path / "config.yaml")
        for written_down in (
            str(config.model_dump()),
            config.model_dump_json(),
            (tmp_path / "config.yaml").read_text(),
        ):
            assert "https://***@host/a" in written_down and "secret" not in written_down


@pytest.mark.parametrize("written, meant", [("windows-1251", "cp1251"), ("KOI8-R", "koi8-r"), ("auto", "auto")])
def test_an_encoding_is_known_by_any_of_its_names(written, meant):
    assert DataConfig(encoding=written).encoding == meant


def test_a_source_whose_name_is_not_utf8_is_kept_as_text():
    assert DataConfig(source=os.fsdecode(b"caf\xe9.txt")).source == "caf\\xe9.txt"


@given(name=st.from_regex(r"[a-z0-9][a-z0-9_.-]*", fullmatch=True))
def test_any_name_is_saved_as_text(name):
    with TemporaryDirectory() as folder:
        save_config(Config(name=name), Path(folder, "config.yaml"))
        assert load_config(Path(folder, "config.yaml")).name == name


def test_a_changed_copy_is_checked_like_a_file():
    with pytest.raises(UserError, match=r"tiny: training\.max_iters: found 0"):
        Config(name="tiny").with_changes({"training.max_iters": 0})
