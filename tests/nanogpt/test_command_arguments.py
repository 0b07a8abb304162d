"""Where a command cannot write what it makes: one line with option, path and remedy, before any work."""

import os

import pytest

from nanogpt import cli

pytestmark = pytest.mark.fast

# What these commands read does not exist: were it looked at first, the message would be about that.
FOLDERS = {
    "prepare": ["absent.txt", "--out"],
    "import-data": ["absent", "--out"],
    "train": ["absent.yaml", "--data", "absent", "--folder"],
    "batch-size": ["absent.yaml", "--folder"],
    "export": ["absent", "--out"],
    "adapters": ["absent", "--out"],
    "merge": ["absent", "absent", "--out"],
}
FILES = {
    "profile": ["absent.yaml", "--picture"],
    "lr-range": ["absent.yaml", "--data", "absent", "--picture"],
}


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """A command that is given what is in the way; the line with which it refuses, and nothing has changed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "folder.svg").mkdir()

    def run(command: str, *arguments: str) -> str:
        assert cli.main([command, *arguments]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1
        assert {path.name for path in tmp_path.iterdir()} == {"mine", "link", "folder.svg"}
        assert (tmp_path / "mine").read_text() == "mine"
        return printed.err

    return run


@pytest.mark.parametrize("path, problem", [
    ("mine", "is a file"), ("mine/deep/er", "mine is a file"), ("link", "is a link to nothing"),
])  # fmt: skip
@pytest.mark.parametrize("command", FOLDERS)
def test_a_file_in_the_place_of_a_folder_is_refused(refused, command, path, problem):
    option = FOLDERS[command][-1]
    assert refused(command, *FOLDERS[command], path) == f"nanogpt: {option} {path}: {problem}; choose a folder\n"


@pytest.mark.parametrize("path, problem", [
    ("mine/x.svg", "mine is a file; choose a folder"), ("folder.svg", "is a folder; choose a file in it"),
    ("x.gif", "should end in .svg or .png"),
])  # fmt: skip
@pytest.mark.parametrize("command", FILES)
def test_a_picture_that_cannot_be_written_is_refused(refused, command, path, problem):
    assert refused(command, *FILES[command], path) == f"nanogpt: --picture {path}: {problem}\n"


def test_a_trace_that_cannot_be_written_is_refused(refused):
    message = refused("profile", "absent.yaml", "--trace", "mine/trace.json")
    assert message == "nanogpt: --trace mine/trace.json: mine is a file; choose a folder\n"


def test_a_device_or_a_pipe_keeps_its_place(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("pipe", "null"):
        assert cli.main(["eval", "absent", "--json", str(tmp_path / name)]) == 2
        assert f"{name}: is a device or a pipe; choose a file" in capsys.readouterr().err
