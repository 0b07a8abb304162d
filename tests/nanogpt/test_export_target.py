"""An export writes over an earlier export and nothing else; the newest weights of a folder are those that are used."""

import os
from pathlib import Path

import pytest

from nanogpt import cli
from nanogpt.config import Config, save_config
from nanogpt.export import huggingface
from nanogpt.faults import UserError
from nanogpt.inference.engine import Engine
from nanogpt.model.lora import add_adapters
from nanogpt.weights import checkpoint
from nanogpt.weights.folders import open_folder
from tests.nanogpt.trained_case import LETTERS, model, train_into


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def trained(tmp_path) -> Path:
    return train_into(tmp_path / "trained")


def refused(capsys, *arguments) -> str:
    """The one line with which the command refuses."""
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


def make_data_folder(folder: Path) -> None:
    LETTERS.save(folder)
    (folder / "train.bin").write_bytes(b"tokens")
    (folder / "manifest.json").write_text("{}")


def make_checkout(folder: Path) -> None:
    folder.mkdir()
    (folder / "README.md").write_text("# Mine")
    (folder / ".git").mkdir()


def make_model_of_others(folder: Path) -> None:
    huggingface.export(model(), LETTERS, folder)
    (folder / "generation_config.json").write_text('{"transformers_version": "5.0"}')


def make_notes(folder: Path) -> None:
    folder.mkdir()
    (folder / "README.md").write_text("# Mine")


@pytest.mark.parametrize("make", [make_data_folder, make_checkout, make_model_of_others, make_notes])
@pytest.mark.parametrize("linked", [False, True])
def test_a_folder_of_anything_else_is_refused_and_stays(make, linked, trained, tmp_path, capsys):
    make(tmp_path / "other")
    before, out = content(tmp_path / "other"), tmp_path / "other"
    if linked:
        out = tmp_path / "link"
        out.symlink_to(tmp_path / "other")
    assert "choose a new or empty folder" in refused(capsys, "export", trained, "--out", out)
    assert content(tmp_path / "other") == before


@pytest.mark.parametrize("inside", [".", "best", "export", "best/deep/export", "../link", "../link/export"])
def test_a_training_folder_is_refused_and_all_that_is_in_it(inside, trained, tmp_path, capsys):
    (tmp_path / "link").symlink_to(trained)
    before = content(trained)
    message = refused(capsys, "export", trained, "--out", trained / inside)
    assert "is the folder that is read" in message or "is in the training folder" in message
    assert content(trained) == before
    other = train_into(tmp_path / "other", seed=1)
    assert "is in the training folder" in refused(capsys, "export", other, "--out", trained / inside)
    assert content(trained) == before


def test_a_file_and_a_link_to_nowhere_are_named(trained, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert "is a file" in refused(capsys, "export", trained, "--out", tmp_path / "file")
    assert f"{tmp_path / 'file'} is a file; choose a folder" in refused(
        capsys, "export", trained, "--out", tmp_path / "file" / "deeper"
    )
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    assert "a link to nothing" in refused(capsys, "export", trained, "--out", tmp_path / "link")
    assert not (tmp_path / "absent").exists()


def test_new_empty_and_earlier_exports_are_written(trained, tmp_path, capsys):
    out = tmp_path / "export"
    out.mkdir()
    (out / ".DS_Store").touch()
    assert cli.main(["export", str(trained), "--out", str(out)]) == 0
    first = content(out)
    assert cli.main(["export", str(trained), "--out", str(out)]) == 0
    assert content(out) == first
    assert "is the folder that is read" in refused(capsys, "export", out, "--out", out)
    assert content(out) == first


@pytest.mark.parametrize("cut_after", ["generation_config.json", "tokenizer.json", "config.json"])
def test_an_export_that_was_cut_is_finished_by_the_next(cut_after, trained, tmp_path):
    out = tmp_path / "export"
    names = ["generation_config.json", "tokenizer.json", "tokenizer_config.json", "config.json", "model.safetensors"]
    huggingface.export_trained(trained, out)
    whole = content(out)
    for name in names[names.index(cut_after) + 1 :]:
        (out / name).unlink()
    (out / f".{cut_after}.123.tmp").write_text("half")
    huggingface.export_trained(trained, out)
    assert {name: data for name, data in content(out).items() if not name.endswith(".tmp")} == whole


def test_a_newer_training_is_never_hidden_by_an_export_in_its_folder(trained, tmp_path):
    folder = tmp_path / "both"
    huggingface.export(model(seed=1), LETTERS, folder)
    train_into(folder, seed=2)
    expected = Engine.of_model(model(seed=2), LETTERS).complete("abc", seed=1)
    assert Engine.from_folder(folder).complete("abc", seed=1) == expected
    assert expected != Engine.of_model(model(seed=1), LETTERS).complete("abc", seed=1)


def test_a_training_without_a_checkpoint_does_not_bring_back_an_old_export(tmp_path):
    huggingface.export(model(), LETTERS, tmp_path)
    save_config(Config(), tmp_path / "config.yaml")
    with pytest.raises(UserError, match="there is no checkpoint yet"):
        open_folder(tmp_path)


def test_adapters_and_merged_models_obey_the_same_rule(trained, tmp_path, capsys):
    base = tmp_path / "base"
    huggingface.export_trained(trained, base)
    adapted = model()
    add_adapters(adapted, 2, 4.0)
    tuned = tmp_path / "tuned"
    training = dict(init_from=str(base), lora_rank=2, lora_alpha=4.0)
    save_config(Config(model=adapted.config.model_dump(), training=training), tuned / "config.yaml")
    LETTERS.save(tuned)
    checkpoint.save_model(tuned / "best", adapted, step=1, facts={})
    before = content(tmp_path)
    make_data_folder(tmp_path / "data")
    for out in (tuned, tuned / "apart", base, trained, tmp_path / "data"):
        refused(capsys, "adapters", tuned, "--out", out)
    apart = tmp_path / "apart"
    assert cli.main(["adapters", str(tuned), "--out", str(apart)]) == 0
    assert cli.main(["adapters", str(tuned), "--out", str(apart)]) == 0
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text('{"peft_type": "LORA", "revision": null}')
    refused(capsys, "adapters", tuned, "--out", tmp_path / "peft")
    for out in (base, apart, trained, tmp_path / "data"):
        refused(capsys, "merge", base, apart, "--out", out)
    assert cli.main(["merge", str(base), str(apart), "--out", str(tmp_path / "merged")]) == 0
    after = content(tmp_path)
    assert {name: after[name] for name in before} == before


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a folder that may not be written to")
def test_a_folder_that_may_not_be_written_to_is_named(trained, tmp_path, capsys):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "Permission denied" in refused(capsys, "export", trained, "--out", tmp_path / "locked" / "out")
