"""Each file that a finished run left, replaced by what is no file: --status answers, and a start ends as it should."""

import itertools
import os
from pathlib import Path

import pytest

from flows.cli import status
from nanogpt.faults import UserError
from tests.flows.small_flow import Flow
from tests.not_a_file import KINDS, each_kind, in_place_of_a_folder


def _files(flow: Flow) -> list[Path]:
    return sorted(path for path in flow.workspace.rglob("*") if path.is_file() and path.suffix != ".bad")


def test_each_file_of_a_finished_run(tmp_path, capsys):
    """Alone, each by one kind in turn; all at once are replaced by each kind below."""
    flow = Flow(tmp_path)
    flow.session()
    flow.session()  # what only a second start writes
    files = _files(flow)
    assert {path.parent.name for path in files} >= {"markers", "copies", "default"} and len(files) > 12
    for path, put in zip(files, itertools.cycle(KINDS.values()), strict=False):
        path.unlink()
        put(path)
        assert status.show(flow.run("--status")) == 0
        assert "documentation" in capsys.readouterr().out
        flow.session()
        assert flow.ended == "finished", path
        flow.session()
        assert flow.worked == [], path


@each_kind
def test_all_files_of_a_finished_run_at_once(tmp_path, put):
    flow = Flow(tmp_path)
    flow.session()
    for path in _files(flow):
        path.unlink()
        put(path)
    assert status.show(flow.run("--status")) == 0
    flow.session()
    assert flow.ended == "finished" and len(flow.worked) == 5


@pytest.mark.parametrize("name", ["state/default/markers", "state/default/copies", "data/default", "logs/default"])
@in_place_of_a_folder
def test_a_folder_of_a_finished_run(tmp_path, put, name):
    flow = Flow(tmp_path)
    flow.session()
    folder = flow.workspace / name
    os.rename(folder, tmp_path / "elsewhere")
    put(folder)
    assert status.show(flow.run("--status")) == 0
    flow.session()
    assert flow.ended == "finished" and folder.is_dir() == os.path.lexists(folder)  # copies are not missed
    assert f"{name} was no folder: it is now {folder.name}.bad" in flow.log


def test_a_link_to_a_disk_that_is_not_mounted_and_a_persons_own_file_stay(tmp_path):
    flow = Flow(tmp_path)
    flow.session()
    for name, put, words in (
        ("data/default", KINDS["link to nothing"], "is a link to nothing; if it leads to another disk"),
        ("exports", Path.touch, "exports is no folder, and one is needed"),
    ):
        place = flow.workspace / name
        if place.exists():
            os.rename(place, tmp_path / "elsewhere")
        put(place)
        with pytest.raises(UserError, match=words):
            flow.session()
        assert os.path.lexists(place) and not place.is_dir()
        place.unlink()
