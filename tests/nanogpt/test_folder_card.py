"""The card that goes with a model: its own, or what its folder knows; of a person's machine there is nothing in it."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from nanogpt import cli, durable
from nanogpt.config import load_config, save_config
from nanogpt.data import shards
from nanogpt.export import folder_card, front_matter
from nanogpt.sources.catalogue import CATALOGUE
from nanogpt.training.trainer import train
from nanogpt.weights import checkpoint
from nanogpt.weights.folders import model_of, source_at
from tests.conftest import CHECKOUT
from tests.nanogpt.training_case import TEXT, tiny

OTHER = "".join(f"{n} goats went over the hill; {n * 5 % 11} sheep and {n % 3} went.\n" for n in range(300))
SHORT = dict(max_iters=12, eval_interval=6, sample_interval=6, warmup_iters=2)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A person's folder: two texts, and what `nanogpt prepare` made of the first."""
    home = tmp_path_factory.mktemp("home-of-ada")
    (home / "letters.txt").write_text(TEXT + ";;\n")
    (home / "goats.txt").write_text(OTHER)
    assert cli.main(["prepare", str(home / "letters.txt"), "--out", str(home / "data")]) == 0
    return home


@pytest.fixture(scope="module")
def base(home) -> Path:
    train(tiny(**SHORT), home / "data", home / "models/base")
    return home / "models/base"


@pytest.fixture(scope="module")
def adapted(home, base) -> Path:
    """The base with adapters, tuned on the other text."""
    words = ["prepare", str(home / "goats.txt"), "--tokenizer-of", str(base), "--out", str(home / "goats")]
    assert cli.main(words) == 0
    config = tiny(**SHORT, init_from=str(base), lora_rank=2, lora_alpha=6.0)
    train(config.with_changes({"name": "goatherd"}), home / "goats", home / "models/adapted")
    return home / "models/adapted"


def run(*words: object) -> None:
    assert cli.main([str(word) for word in words]) == 0


def readme(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def assert_shareable(folder: Path, home: Path) -> None:
    """No file of a folder names a place of this machine."""
    for path in folder.iterdir():
        content = path.read_bytes()
        for place in (home, home.parent, Path.home(), CHECKOUT):
            assert str(place).encode() not in content, path
        assert b"home-of-ada" not in content, path


# ---- export


@pytest.mark.fast
def test_an_export_has_a_card_of_what_the_folder_knows(home, base, tmp_path):
    run("export", base, "--out", tmp_path / "export")
    text = readme(tmp_path / "export")
    manifest = shards.read_manifest(home / "data")
    for words in ("# tiny\n", "learned `letters.txt` from scratch", manifest.source_sha256, "at step 12 of",
                  "| Steps | at most 12 |", "after 12 steps (all its steps were done)", "bits per byte",
                  "| Seed |"):  # fmt: skip
        assert words in text, words
    assert_shareable(tmp_path / "export", home)
    mark = front_matter.read_mark(tmp_path / "export")
    assert (mark.model, mark.text, mark.text_sha256) == ("tiny", "letters.txt", manifest.source_sha256)
    assert mark.weights == checkpoint.read_manifest(base / "best")["files"]["model.safetensors"]["sha256"]


@pytest.mark.fast
def test_the_same_model_gives_the_same_card_and_an_export_of_an_export_keeps_it(base, tmp_path):
    for source, out in ((base, "first"), (base, "second"), (tmp_path / "first", "third")):
        run("export", source, "--out", tmp_path / out)
    assert readme(tmp_path / "first") == readme(tmp_path / "second") == readme(tmp_path / "third")
    run("export", base, "--out", tmp_path / "first")  # over itself
    assert readme(tmp_path / "first") == readme(tmp_path / "third")


@pytest.mark.fast
def test_a_models_own_card_goes_with_its_best_weights_and_with_no_others(base, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    folder_card.write_for_training(folder)
    own = readme(folder).replace("license: unknown", "license: cc0-1.0")  # as a person fills it in
    (folder / "README.md").write_text(own)
    run("export", folder, "--out", tmp_path / "best")
    assert readme(tmp_path / "best") == own
    run("export", folder / "checkpoints/step-00000008", "--out", tmp_path / "earlier")
    assert "license: unknown" in readme(tmp_path / "earlier")
    assert "The weights are those of `step-00000008`" in readme(tmp_path / "earlier")
    model = model_of(source_at(base))
    checkpoint.save_model(folder / "best", model.half(), step=1, facts={})  # trained on, and stopped
    (folder / "outcome.json").unlink()
    run("export", folder, "--out", tmp_path / "newer")
    assert "license: unknown" in readme(tmp_path / "newer") and "has not finished" in readme(tmp_path / "newer")


@pytest.mark.fast
@pytest.mark.parametrize("command", ["export", "adapters", "merge"])
def test_a_readme_in_a_persons_own_words_is_left_alone(command, base, adapted, tmp_path):
    run("adapters", adapted, "--out", tmp_path / "apart")
    words = {"export": [base], "adapters": [adapted], "merge": [base, tmp_path / "apart"]}[command]
    run(command, *words, "--out", tmp_path / "out")
    (tmp_path / "out/README.md").write_text("# My own words\n")
    run(command, *words, "--out", tmp_path / "out")
    assert readme(tmp_path / "out") == "# My own words\n"


@pytest.mark.fast
def test_a_training_folder_in_a_persons_own_words_is_left_alone(base, tmp_path):
    shutil.copytree(base, tmp_path / "model")
    (tmp_path / "model/README.md").write_text("# My own words\n")
    folder_card.write_for_training(tmp_path / "model")
    assert readme(tmp_path / "model") == "# My own words\n"
    (tmp_path / "empty").mkdir()
    folder_card.write_for_training(tmp_path / "empty")  # no weights yet
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.fast
@pytest.mark.parametrize("damage", ["removed", "{", '{"manifest_sha256": 3, "splits": []}'])
@pytest.mark.parametrize("file", ["data.json", "outcome.json", "samples.jsonl", "metrics.jsonl"])
def test_a_file_that_is_torn_costs_what_it_says_and_nothing_else(file, damage, base, tmp_path):
    shutil.copytree(base, tmp_path / "model")
    if damage == "removed":
        (tmp_path / "model" / file).unlink()
    else:
        (tmp_path / "model" / file).write_text(damage)
    run("export", tmp_path / "model", "--out", tmp_path / "out")
    assert "# tiny" in readme(tmp_path / "out") and "## Limits" in readme(tmp_path / "out")


@pytest.mark.fast
def test_a_model_from_elsewhere_is_called_so(base, tmp_path):
    run("export", base, "--out", tmp_path / "from-elsewhere")
    (tmp_path / "from-elsewhere/README.md").write_text("---\nlicense: mit\n---\n# Theirs\n")
    run("export", tmp_path / "from-elsewhere", "--out", tmp_path / "out")
    text = readme(tmp_path / "out")
    assert "# from-elsewhere\n" in text and "was made elsewhere" in text and "find out before you share it" in text


# ---- adapters, merged and tuned models


@pytest.mark.fast
def test_adapters_and_merged_models_have_a_card_that_names_base_rank_and_text(home, base, adapted, tmp_path):
    run("adapters", adapted, "--out", tmp_path / "apart")
    run("merge", base, tmp_path / "apart", "--out", tmp_path / "merged")
    run("export", adapted, "--out", tmp_path / "tuned")
    goats = shards.read_manifest(home / "goats").source_sha256
    for folder in ("apart", "merged", "tuned"):
        text = readme(tmp_path / folder)
        assert "`tiny`" in text and "rank 2" in text and "`goats.txt`" in text and goats in text, folder
        assert "# goatherd\n" in text and "`letters.txt`" in text, folder
        assert_shareable(tmp_path / folder, home)
    assert json.loads((tmp_path / "apart/adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"
    assert "peft" in readme(tmp_path / "apart") and "Low-rank adapters" in readme(tmp_path / "apart")


@pytest.mark.fast
def test_adapters_by_peft_are_called_after_their_folder(base, adapted, tmp_path):
    run("adapters", adapted, "--out", tmp_path / "by-peft")
    (tmp_path / "by-peft/README.md").write_text("---\nlibrary_name: peft\n---\n# theirs\n")
    run("merge", base, tmp_path / "by-peft", "--out", tmp_path / "merged")
    text = readme(tmp_path / "merged")
    assert "# by-peft\n" in text and "of rank 2" in text and "a text that is not recorded here" in text


@pytest.mark.fast
def test_a_base_that_is_gone_is_named(home, base, adapted, tmp_path):
    shutil.copytree(adapted, tmp_path / "model")
    config = load_config(tmp_path / "model/config.yaml").with_changes({"training.init_from": str(tmp_path / "a/gone")})
    save_config(config, tmp_path / "model/config.yaml")
    run("adapters", tmp_path / "model", "--out", tmp_path / "apart")
    assert "for `gone`, a GPT" in readme(tmp_path / "apart")
    assert_shareable(tmp_path / "apart", tmp_path)


def test_the_code_in_a_card_runs(base, adapted, tmp_path, monkeypatch):
    pytest.importorskip("transformers"), pytest.importorskip("peft")
    run("export", base, "--out", tmp_path / "export")
    run("adapters", adapted, "--out", tmp_path / "apart")
    shutil.copytree(tmp_path / "export", tmp_path / "apart/tiny")  # where the name of the base leads to
    for folder in ("export", "apart"):
        monkeypatch.chdir(tmp_path / folder)
        [python] = [token.content for token in MarkdownIt().parse(readme(Path())) if token.info == "python"]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(python, "README.md", "exec"), {})
        assert len(printed.getvalue()) > 4, folder


# ---- the name of the text


def start_training(config: Path, *words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "nanogpt.cli", "train", config, *words]
    return subprocess.run(list(map(str, command)), cwd=CHECKOUT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_nanogpt_train_records_the_text_of_its_data_and_writes_a_card(home, tmp_path):
    save_config(tiny(**SHORT), tmp_path / "tiny.yaml")  # which names tiny Shakespeare
    done = start_training(tmp_path / "tiny.yaml", "--data", home / "data", "--folder", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    assert load_config(tmp_path / "model/config.yaml").data.source == "letters.txt"
    text = readme(tmp_path / "model")
    assert "learned `letters.txt` from scratch" in text and "public domain" not in text
    run("export", tmp_path / "model", "--out", tmp_path / "export")
    assert readme(tmp_path / "export") == text
    watched = start_training(tmp_path / "tiny.yaml", "--data", home / "data", "--folder", tmp_path / "of-a-run",
                             "--parent", os.getpid())  # fmt: skip
    assert watched.returncode == 0, watched.stderr
    assert not (tmp_path / "of-a-run/README.md").exists()  # whoever started it knows more


@pytest.mark.fast
def test_data_that_does_not_know_its_text_is_unknown_and_not_tiny_shakespeare(home, tmp_path):
    data = older(home / "data", tmp_path / "data")
    for config, expected in (
        (tiny(max_iters=3, warmup_iters=1), "unknown"),
        (stating("tiny_shakespeare"), "unknown"),  # another text than that
        (stating("/home/ada/novel.txt"), "/home/ada/novel.txt"),  # as a run of flows names it
        (stating("embedded"), "embedded"),
    ):
        folder = tmp_path / expected.replace("/", "-") / config.name
        train(config, data, folder)
        assert load_config(folder / "config.yaml").data.source == expected
    assert "a text of unknown name" in folder_card.card.text(
        folder_card.described(source_at(tmp_path / "unknown/tiny"))
    )


@pytest.mark.fast
def test_tiny_shakespeare_is_known_by_its_content(tmp_path, shared_data):
    run("prepare", "tiny_shakespeare", "--out", tmp_path / "data", "--set", f"data.mirror={shared_data}")
    assert shards.read_manifest(tmp_path / "data").source == "tiny_shakespeare"
    data = older(tmp_path / "data", tmp_path / "older")
    assert shards.read_manifest(data).source_sha256 == CATALOGUE["tiny_shakespeare"].sha256
    train(tiny(max_iters=2, warmup_iters=1, eval_interval=2), data, tmp_path / "model")
    assert load_config(tmp_path / "model/config.yaml").data.source == "tiny_shakespeare"
    run("export", tmp_path / "model", "--out", tmp_path / "export")
    front = yaml.safe_load(re.split(r"^---\n", readme(tmp_path / "export"), flags=re.MULTILINE)[1])
    assert front["language"] == ["en"] and "`tiny_shakespeare`: public domain." in readme(tmp_path / "export")


@pytest.mark.fast
def test_the_name_of_a_text_is_no_part_of_a_trainings_identity(home, tmp_path):
    """A training begun on data of an older version continues when the same text is prepared anew."""
    data = older(home / "data", tmp_path / "data")
    assert shards.identity(data) == durable.sha256_file(data / shards.MANIFEST)
    train(tiny(**SHORT), data, tmp_path / "model")
    shutil.rmtree(data)
    run("prepare", home / "letters.txt", "--out", data)
    assert shards.read_manifest(data).source == "letters.txt"
    assert train(tiny(**{**SHORT, "max_iters": 14}), data, tmp_path / "model").step == 14
    assert load_config(tmp_path / "model/config.yaml").data.source == "letters.txt"


def older(data: Path, copy: Path) -> Path:
    """A data folder as older versions wrote it: its manifest does not name the text."""
    shutil.copytree(data, copy)
    manifest = durable.read_json(copy / shards.MANIFEST)
    del manifest["source"]
    durable.write_json(copy / shards.MANIFEST, manifest)
    return copy


def stating(source: str):
    return tiny(max_iters=3, warmup_iters=1).with_changes({"name": "stated", "data.source": source})
