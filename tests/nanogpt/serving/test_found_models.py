"""What a path offers, described without torch: exports, trainings with their steps, workspaces."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from nanogpt.faults import UserError
from nanogpt.serving.found_models import find_models, version_of
from tests.sources import CHECKOUT

pytestmark = pytest.mark.fast
WEIGHTS = safetensors.torch.save({"a": torch.zeros(3, 4), "b": torch.zeros(5)})


def checkpoint(folder, step, context=32):
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "manifest.json").write_text(json.dumps({"step": step, "facts": {"context": context}}))


@pytest.fixture
def workspace(tmp_path):
    training = tmp_path / "checkpoints" / "default" / "micro"
    checkpoint(training / "best", 100)
    checkpoint(training / "final", 200)
    for step in (100, 200):
        checkpoint(training / "checkpoints" / f"step-{step:08}", step)
    checkpoint(training / "checkpoints" / ".step-00000300.tmp", 300)
    (training / "config.yaml").write_text("model: {block_size: 64}")
    for name in ("best", "best-gguf", "best-mlx"):
        export = tmp_path / "exports" / "default" / name
        export.mkdir(parents=True)
        (export / "config.json").write_text('{"max_position_embeddings": 64}')
        (export / "model.safetensors").write_bytes(WEIGHTS)
    (tmp_path / "data" / "default").mkdir(parents=True)
    return tmp_path


def test_a_workspace_offers_its_exports_and_every_checkpoint(workspace):
    found = find_models([workspace])
    assert [(model.id, model.kind, model.step, model.block_size) for model in found] == [
        ("default/best", "export", None, 64),
        ("default/micro@best", "best", 100, 32),
        ("default/micro@final", "final", 200, 32),
        ("default/micro@step-00000100", "step", 100, 32),
        ("default/micro@step-00000200", "step", 200, 32),
    ]
    assert {(model.run, model.parameters) for model in found} == {("default", 17)}


@pytest.mark.parametrize("place, ids", [
    ("exports/default/best", ["default/best"]),
    ("exports", ["default/best"]),
    ("checkpoints/default/micro/best", ["default/micro@best"]),
    ("checkpoints/default/micro/checkpoints/step-00000100", ["default/micro@step-00000100"]),
    ("checkpoints/default/micro", ["default/micro@best", "default/micro@final", "default/micro@step-00000100",
                                   "default/micro@step-00000200"]),
])  # fmt: skip
def test_a_part_of_it_offers_what_lies_there(workspace, place, ids):
    assert [model.id for model in find_models([workspace / place])] == ids


def test_models_of_one_name_get_ids_of_their_own_and_one_named_twice_stays_one(workspace, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(workspace / "exports", other / "exports")
    best = workspace / "exports" / "default" / "best"
    assert [model.id for model in find_models([best, other, best])] == ["default/best", "default/best-2"]


@pytest.mark.parametrize("place, words", [("nowhere", "no such file"), ("data", "holds no model yet")])
def test_a_path_without_a_model_says_what_makes_one(workspace, place, words):
    with pytest.raises(UserError, match=words):
        find_models([workspace, workspace / place])
    assert len(find_models([workspace, workspace / place], missing_ok=True)) == 5


def test_damaged_descriptions_leave_a_model_without_figures(workspace):
    best = workspace / "exports" / "default" / "best"
    for content in ("", "[", "[1]", '{"max_position_embeddings": "many"}'):
        (best / "config.json").write_text(content)
        (best / "model.safetensors").write_bytes(b"\xff" * 20)
        (model,) = find_models([best])
        assert (model.block_size, model.parameters) == (None, None)


def test_weights_written_anew_are_another_version(workspace):
    best = workspace / "exports" / "default" / "best"
    before = version_of(best)
    (best / "new").write_bytes(WEIGHTS)
    (best / "new").replace(best / "model.safetensors")
    assert version_of(best) != before
    (best / "model.safetensors").unlink()
    assert version_of(best) is None


@pytest.mark.slow
def test_finding_them_loads_no_torch(workspace):
    code = (
        "import sys; from pathlib import Path; from nanogpt.serving.found_models import find_models; "
        f"assert find_models([Path({str(workspace)!r})]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=True, timeout=60)


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json", "config.yaml", "config.json"])
def test_what_is_no_plain_file_keeps_nobody_waiting(workspace, name):
    """Reading a FIFO would wait for its writer, and the whole server with it."""
    mkfifo = getattr(os, "mkfifo", None) or pytest.skip("no FIFOs here")
    found = [path for path in workspace.rglob(name) if path.is_file()]
    for path in found:
        path.unlink()
        mkfifo(path)
    assert version_of(found[0]) is None
    find_models([workspace], missing_ok=True)


def test_a_header_of_absurd_sizes_is_no_reason_to_fail(workspace):
    header = b'{"a": {"shape": [1e999]}}'
    for path in workspace.rglob("model.safetensors"):
        path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert {model.parameters for model in find_models([workspace])} == {None}


def test_a_folder_that_may_not_be_read_is_passed_over(workspace):
    folder = workspace / "exports" / "default" / "private"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    folder.chmod(0)
    program = (
        "import os, sys; from pathlib import Path; from nanogpt.serving.found_models import find_models; "
        "os.getuid() or os.setuid(65534); print(len(find_models([Path(sys.argv[1])])))"
    )
    for above in (workspace, *workspace.parents[:-2]):
        above.chmod(above.stat().st_mode | 0o055)
    command = [sys.executable, "-c", program, str(workspace)]
    assert subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True).stdout == "5\n"
    folder.chmod(0o700)


def test_a_name_that_is_not_text_can_be_stated(workspace):
    folder = workspace / "exports" / os.fsdecode(b"run\xff")
    (workspace / "exports" / "default").rename(folder)
    [model] = find_models([folder])
    assert (model.id, model.run) == ("run\\udcff/best", "run\\udcff") and model.path == folder / "best"
