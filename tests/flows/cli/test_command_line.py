"""A command line: what it means, and for every mistake one line, exit code 2 and nothing written."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flows.cli import session
from flows.cli.command_line import MODEL_SECTIONS, parse, run_words
from flows.context.options import RunConfig, RunOptions
from flows.context.paths import CHECKOUT
from flows.full_run import PHASES
from nanogpt.config import Config
from nanogpt.faults import UserError
from nanogpt.mistakes import dotted_keys
from tests.not_a_file import each_kind

MODEL = "model: {n_layer: 1, n_head: 2, n_embd: 32, block_size: 32}\ntraining: {max_iters: 100}\n"
LONG_ENOUGH = "To be, or not to be, that is the question.\n" * 100


def parsed(arguments: list[str]) -> RunOptions:
    return parse(arguments, PHASES)


def refusal(arguments, capsys) -> str:
    """What the command prints on stderr as it refuses `arguments`."""
    assert session.main(arguments, PHASES, lambda run: pytest.fail("the flow was started")) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1, printed.err
    return printed.err.removeprefix("error: ").rstrip("\n")


BAD_ARGUMENTS = {
    "an unknown option": (["--budgt", "3m"], '--budgt 3m (did you mean "--budget"?)'),
    "an option without its value": (["--budget"], "argument --budget: expected one argument"),
    "an abbreviated option": (["--stat"], '(did you mean "--status"?)'),
    "a budget that is no time": (["--budget", "soon"], "--budget: found 'soon', expected a time such as 90s, 10m"),
    "a negative budget": (["--budget=-5m"], "--budget: found '-5m'"),
    "a budget too short": (["--budget", "5s"], "--budget: found 5s, the shortest budget is 60s"),
    "a budget in --set": (["--set", "budget=1s"], "--set budget: found 1s"),
    "an unknown phase": (["--only", "trainin"], '--only trainin: no such phase (did you mean "training"?); phases are'),
    "an unknown step": (["--redo", "training.mikro"], 'no such step (did you mean "training.micro"?); steps are'),
    "an unknown data set": (["--data", "tiny_shakespear"], '(did you mean "tiny_shakespeare"?)'),
    "a missing file": (["--data", "nowhere/text.txt"], "data.source: there is no file or folder"),
    "a missing mirror": (["--set", "data.mirror=/nowhere"], "data.mirror: /nowhere is neither a folder nor"),
    "a run with a slash": (["--run", "a/b"], "--run: found 'a/b', should be a name of letters, digits"),
    "a mixture of what is not there": (["--set", "data.mixture=[{source: a}]"], "a is neither a file, a folder"),
    "a run without a name": (["--run", ""], "--run: found ''"),
    "the folder of all runs": (["--run", "downloads"], "--run: found 'downloads'"),
    "no value": (["--set", "training.seed"], "--set training.seed: expected KEY=VALUE"),
    "no key": (["--set", "=3"], "--set =3: expected KEY=VALUE"),
    "not YAML": (["--set", "training.seed=["], "--set training.seed=[: the value is not valid YAML"),
    "not a number": (["--set", "training.learning_rate=fast"], "--set training.learning_rate: found 'fast', should be"),
    "a misspelt key": (["--set", "training.learning_rat=1"],
                       '--set training.learning_rat: unknown key (did you mean "training.learning_rate"?)'),
    "initials": (["--set", "training.lr=1"], '--set training.lr: unknown key (did you mean "training.learning_rate"?)'),
    "initials alone": (["--set", "lr=1"], '--set lr: unknown key (did you mean "training.learning_rate"?)'),
    "no section": (["--set", "seed=1"], '--set seed: unknown key (did you mean "training.seed"?)'),
    "a misspelt section": (["--set", "trainng.seed=1"], 'trainng.seed: unknown key (did you mean "training.seed"'),
    "a misspelt key of the run": (["--set", "data.sorce=x"], 'data.sorce: unknown key (did you mean "data.source"?)'),
    "a section without keys": (["--set", "training=3"], "--set training: found 3, should be a section"),
    "a key in a value": (["--set", "model.n_layer.x=3"], '--set model.n_layer.x: "n_layer" is not a section'),
    "a choice there is not": (["--set", "model.preset=gpt3"], "--set model.preset: found 'gpt3', should be 'gpt2' or"),
    "out of bounds": (["--set", "data.val_fraction=0.6"], "--set data.val_fraction: found 0.6, should be less than"),
    "heads that do not divide": (["--set", "model.n_embd=100", "--set", "model.n_head=3"],
                                 "with --set model.n_embd, --set model.n_head: model: n_embd 100 is not divisible by "
                                 "n_head 3; the nearest n_embd that is: 99"),
    "a block longer than the data": (["--data", "tiny_shakespeare", "--set", "model.block_size=100000"],
                                     "block_size 100000"),
    "an unknown model": (["--set", "ladder=[mikro]"], '(did you mean "micro"?)'),
    "a ladder that is no list": (["--set", "ladder=micro"], "--set ladder: found 'micro', should be a list"),
    "no model": (["--set", "ladder=[]"], "ladder: is empty"),
    "a line break": (["--set", "training\n=\n3", "--set", "a\nb"], "--set a b: expected KEY=VALUE"),
    "a model to continue from": (["--set", "training.init_from=exports/a"], "nanogpt train CONFIG --init exports/a"),
    "a missing config": (["--config", "/nowhere.yaml"], "/nowhere.yaml: cannot be read"),
    "a variable that is not set": (["--data", ""], "argument --data: is empty"),
    "no workspace": (["--workspace="], "argument --workspace: is empty"),
    "a home of nobody": (["--workspace", "~nobody-of-that-name/x"], "is in the home of a user who does not exist"),
    "a text of nobody": (["--data", "~nobody-of-that-name/x.txt"], "data.source: there is no file or folder"),
    "a workspace too long": (["--workspace", "x" * 5000], f"--workspace: File name too long: {'x' * 100};"),
    "a text too long": (["--set", f"data.source={'x' * 5000}"], f"{'x' * 100} cannot be read (File name too long)"),
    "a mirror too long": (["--set", f"data.mirror={'x' * 5000}"], "is neither a folder nor"),
    "a text with a NUL": (["--set", 'data.source="a\\0b"'], "cannot be read (embedded null byte)"),
    "a number too large": (["--set", "training.seed=1e300"], "--set training.seed: found 1e+300, should be a smaller"),
    "more layers than any model has": (["--set", "model.n_layer=100000000"], "found 100000000, should be less than"),
    "a learning rate without end": (["--set", "training.learning_rate=1e300"], "learning_rate: found 1e+300, should"),
    "a step without end": (["--set", "training.batch_size=999999999999"], "with --set training.batch_size: training.b"),
    "a model for no machine": (["--config", f"{CHECKOUT}/configs/micro.yaml", "--set", "model.n_embd=900000"],
                               "block_size 64 need "),
    "a key of a model's file alone": (["--set", "name=mine"], "--set name: unknown key"),
}  # fmt: skip


@pytest.mark.parametrize("arguments, words", BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_a_bad_command_line_is_one_line_and_writes_nothing(arguments, words, tmp_path, capsys):
    assert words in refusal(["--workspace", str(tmp_path), *arguments], capsys)
    assert list(tmp_path.iterdir()) == []


BAD_FILES = {
    "misspelt key of a model": ("model: {n_layr: 2}", 'model.n_layr: unknown key (did you mean "n_layer"?)'),
    "misspelt key of training": ("training: {max_iter: 2}", 'unknown key (did you mean "max_iters"?)'),
    "misspelt section": ("modle: {n_layer: 2}", 'modle: unknown key (did you mean "model"?)'),
    "misspelt key of a run": ("bugdet: 10m", 'bugdet: unknown key (did you mean "budget"?)'),
    "misspelt key of a run's data": ("data: {sorce: x}", 'data.sorce: unknown key (did you mean "source"?)'),
    "misspelt key of a model's data": ("model: {}\ndata: {sorce: x}", '(did you mean "source"?)'),
    "a run's key in a model": ("model: {}\nbudget: 10m", "budget: unknown key"),
    "a key that is no text": ("model: {3: 4}", "model.3: unknown key"),
    "heads that do not divide": ("model: {n_embd: 100, n_head: 3}", "n_embd 100 is not divisible by n_head 3"),
    "warm-up longer than training": ("training: {max_iters: 10, warmup_iters: 10}", "warmup_iters 10 must be below"),
    "a budget left blank": ("budget:", "budget: found 'None', expected a time"),
    "text for a section": ("data: tiny", "data: found 'tiny', should be a section"),
    "text for a model's section": ("model: {}\ndata: tiny", "data: found 'tiny', should be a section"),
    "a number for a section": ("model: 3", "model: found 3, should be a section"),
    "an empty file": ("", "expected sections such as 'model:'"),
    "a list": ("- model", "expected sections such as 'model:', found list"),
    "broken YAML": ("model: {n_layer: 2", "not valid YAML"),
    "binary": ("\0\1", "not valid YAML"),
}  # fmt: skip


@pytest.mark.parametrize("text, words", BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_one_line_that_names_it(text, words, tmp_path, capsys):
    file, workspace = tmp_path / "mine.yaml", tmp_path / "workspace"
    file.write_text(text)
    said = refusal(["--workspace", str(workspace), "--config", str(file)], capsys)
    assert said.startswith(f"{file}:") and words in said
    assert not workspace.exists()


BAD_TEXTS = {"empty": b"", "blank": b" \n\n", "binary": bytes(range(256)) * 20, "too short": b"To be, or not to be.\n"}


@pytest.mark.parametrize("content", BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_text_that_cannot_be_learned_from_is_refused_before_anything_is_written(content, tmp_path, capsys):
    text, workspace = tmp_path / "text.txt", tmp_path / "workspace"
    text.write_bytes(content)
    said = refusal(["--workspace", str(workspace), "--data", str(text)], capsys)
    assert said.startswith("data.source:") and str(text) in said
    assert not workspace.exists()


def test_a_block_longer_than_a_persons_own_text_names_both(tmp_path, capsys):
    config, text, workspace = tmp_path / "mine.yaml", tmp_path / "text.txt", tmp_path / "workspace"
    config.write_text(MODEL)
    text.write_text(LONG_ENOUGH)
    arguments = ["--workspace", str(workspace), "--config", str(config), "--data", str(text)]
    said = refusal([*arguments, "--set", "model.block_size=1024"], capsys)
    assert f"{len(LONG_ENOUGH):,} bytes" in said and "block_size 1024" in said
    assert not workspace.exists()
    session.check_before_writing(parsed(arguments))  # 32 characters fit


def test_a_folder_without_text_is_refused(tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    assert "holds no text" in refusal(["--workspace", str(tmp_path), "--data", str(tmp_path / "pictures")], capsys)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="/proc is where even root cannot write")
def test_a_workspace_that_cannot_be_written_is_refused(capsys):
    assert "--workspace /proc/mine: cannot be written" in refusal(["--workspace", "/proc/mine"], capsys)


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_workspace_that_is_a_file_is_refused(below, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("mine")
    assert f"{file} is a file" in refusal(["--workspace", str(file / below)], capsys)
    assert file.read_text() == "mine"


def test_a_workspace_that_is_a_link_to_itself_is_refused(tmp_path, capsys):
    (tmp_path / "loop").symlink_to("loop")
    for place in (tmp_path / "loop", tmp_path / "loop" / "deeper"):
        assert "Too many levels of symbolic links" in refusal(["--workspace", str(place)], capsys)


@each_kind
def test_what_is_no_file_is_no_text_and_no_settings(put, tmp_path, capsys):
    place, workspace = tmp_path / "place.yaml", ["--workspace", str(tmp_path / "workspace")]
    put(place)
    for option in ("--data", "--config"):
        refusal([*workspace, option, str(place)], capsys)
    assert not (tmp_path / "workspace").exists()


def test_a_workspace_whose_state_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "state").write_text("mine")
    assert "cannot be made" in refusal(["--workspace", str(tmp_path), "--data", "embedded"], capsys)


def test_the_real_command_refuses_without_a_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "flows.full_run", "--no-bootstrap", "--workspace", str(tmp_path), "--set", "model.n=1"],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "--set model.n: unknown key" in done.stderr
    assert list(tmp_path.iterdir()) == []


# What is right ----------------------------------------------------------------------------------------------------


def test_without_arguments_it_is_six_hours_of_a_text_that_suits_them_in_the_checkout():
    options = parsed([])
    assert options.run == "default" and options.config.budget == 6 * 3600
    assert options.config.data.source == "auto" and options.text_by_plan and options.workspace == CHECKOUT
    assert [candidate.name for candidate in options.candidates] == list(options.config.ladder)
    assert not options.fixed and options.pinned == frozenset() and options.ui


def test_scientific_notation_is_a_number(tmp_path):
    """PyYAML reads `3e-4` and `1e3` as text."""
    config = tmp_path / "mine.yaml"
    config.write_text("training: {learning_rate: 3e-4, max_iters: 1e3}")
    assert parsed(["--config", str(config)]).candidates[0].training.learning_rate == 3e-4
    assert parsed(["--config", str(config)]).candidates[0].training.max_iters == 1000
    changed = parsed(["--set", "training.learning_rate=3e-4", "--set", "training.max_iters=2e3"])
    assert {candidate.training.learning_rate for candidate in changed.candidates} == {3e-4}
    assert {candidate.training.max_iters for candidate in changed.candidates} == {2000}
    assert changed.pinned == {"training.learning_rate", "training.max_iters"}


def test_a_models_file_is_trained_as_written_with_the_runs_own_settings_too(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text(MODEL + "data: {tokenizer: char}\ndevice: {type: cpu}\n")
    options = parsed(["--config", str(config), "--set", "port=5000", "--budget", "1h", "--run", "mine"])
    [candidate] = options.candidates
    assert options.fixed and candidate.name == "mine" and candidate.training.max_iters == 100
    assert candidate.data.tokenizer == "char" and candidate.data.source == "auto"
    assert candidate.device.type == "cpu"
    assert (options.config.port, options.config.budget, options.run) == (5000, 3600, "mine")


def test_a_runs_file_gives_defaults_and_the_command_line_wins(tmp_path):
    config = tmp_path / "night.yaml"
    config.write_text("run: night\nbudget: 8h\nladder: [micro]\n")
    options = parsed(["--config", str(config), "--budget", "10m"])
    assert not options.fixed and (options.run, options.config.budget) == ("night", 600)
    assert [candidate.name for candidate in options.candidates] == ["micro"]


def test_a_persons_path_is_kept_absolute(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(LONG_ENOUGH)
    monkeypatch.chdir(tmp_path)
    assert parsed(["--data", "text.txt"]).config.data.source == str(tmp_path / "text.txt")
    both = f"{tmp_path}/text.txt,{tmp_path}/sub/more.txt"
    assert parsed(["--data", "text.txt, sub/more.txt"]).config.data.source == both
    for name in ("embedded", "hf:Salesforce/wikitext:wikitext-2-raw-v1"):
        assert parsed(["--data", name]).config.data.source == name


def test_the_shipped_config_holds_the_missions_values():
    [candidate] = parsed(["--config", str(CHECKOUT / "configs/tiny_shakespeare.yaml")]).candidates
    model, training, device = candidate.model, candidate.training, candidate.device
    assert (model.n_layer, model.n_head, model.n_embd, model.dropout, model.block_size) == (6, 6, 384, 0.2, 256)
    assert (training.batch_size, training.learning_rate, training.max_iters) == (12, 3e-4, 5000)
    assert (training.warmup_iters, training.eval_interval, training.gradient_accumulation) == (100, 500, 4)
    assert (device.type, device.mixed_precision, device.compile) == ("mps", False, False)


def test_the_command_that_continues_leaves_out_what_is_for_one_start():
    asked = ["--budget", "10m", "--fresh", "--only", "training", "--redo=dataset.fetch", "--data", "my text.txt"]
    assert run_words(asked) == ["--budget", "10m", "--data", "my text.txt"]


def test_from_another_folder_the_command_names_paths_that_hold_anywhere(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(LONG_ENOUGH)
    monkeypatch.chdir(tmp_path)
    command = shlex.join(run_words(["--data=text.txt", "--workspace", "here/there", "--set", "data.val_fraction=0.1"]))
    where = f"--data {tmp_path}/text.txt --workspace {tmp_path}/here/there"
    assert command == f"{where} --set data.val_fraction=0.1"
    assert run_words(["--data", "embedded"]) == ["--data", "embedded"]
    monkeypatch.chdir(CHECKOUT)
    assert run_words(["--config", "configs/micro.yaml"]) == ["--config", "configs/micro.yaml"]


def test_looking_needs_no_rights_and_leaves_the_folder_untouched(tmp_path):
    os.utime(tmp_path, (1, 1))
    assert parsed(["--workspace", str(tmp_path), "--status"]).status
    assert parsed(["--workspace", str(tmp_path), "--plan"]).plan
    assert tmp_path.stat().st_mtime == 1


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30))
def test_no_setting_ends_in_anything_but_options_or_a_refusal(text):
    with contextlib.suppress(UserError):
        parsed(["--set", text])


KEYS = sorted({*dotted_keys(RunConfig), *(key for key in dotted_keys(Config) if key.startswith(MODEL_SECTIONS))})


@given(st.sampled_from(KEYS), st.data())
def test_the_key_that_is_suggested_for_set_is_one_that_works_there(key, data):
    place = data.draw(st.integers(0, len(key) - 1))
    typed = data.draw(st.sampled_from([key[:place] + key[place + 1 :], key.rpartition(".")[2]]))
    assume(typed and typed not in KEYS)
    with pytest.raises(UserError) as error:
        parsed(["--set", f"{typed}=x"])
    for suggested in re.findall('did you mean "(.*)"', str(error.value)):
        assert suggested in KEYS


@pytest.mark.parametrize("name, suggested", [
    ("my run", "such as my-run"), ("-x", "such as x"), ("x" * 300, f"such as {'x' * 80}"),
    ("", "a letter or digit"), ("é", "a letter or digit"),
])  # fmt: skip
def test_a_name_that_is_none_is_answered_with_what_is_allowed_and_one_that_is(name, suggested):
    with pytest.raises(UserError, match=r"--run: found .*should be a name of letters, digits") as error:
        parse([f"--run={name}"], PHASES)
    assert suggested in str(error.value) and len(str(error.value)) < 350
