"""Files are whole or as they were before, whatever fails."""

import contextlib
import errno
import hashlib
import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt import durable
from tests.not_a_file import each_kind

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch, broken):
    path = tmp_path / "facts.json"
    durable.write_json(path, {"old": 1})

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="No space"):
        durable.write_json(path, {"new": 2})
    monkeypatch.undo()
    assert durable.read_json(path) == {"old": 1} and list(tmp_path.iterdir()) == [path]


def test_two_threads_may_write_one_file_at_the_same_time(tmp_path):
    both_have_begun = Barrier(2, timeout=10)

    def write(word: str) -> None:
        def pieces():
            both_have_begun.wait()
            yield word.encode()

        durable.write_pieces(tmp_path / "mark", pieces())

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, ["one", "two"]))
    assert (tmp_path / "mark").read_text() in ("one", "two") and len(list(tmp_path.iterdir())) == 1


def test_folders_are_made_and_text_comes_back(tmp_path):
    path = tmp_path / "a" / "b" / "text.txt"
    durable.write_text(path, "naïve\n")
    assert path.read_bytes() == "naïve\n".encode()
    assert durable.sha256_file(path) == hashlib.sha256("naïve\n".encode()).hexdigest()


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        durable.write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_a_digest_is_of_the_value_and_not_of_its_order(value):
    turned = json.loads(json.dumps(value), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    assert durable.digest(turned) == durable.digest(value) != durable.digest([value])


def test_a_volume_that_does_not_know_full_fsync_is_flushed_the_ordinary_way(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*args):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    flushed = []
    monkeypatch.setattr(durable.sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    monkeypatch.setattr(os, "fsync", flushed.append)
    with open(tmp_path / "x", "wb") as file:
        durable.fsync_file(file)
        assert flushed == [file.fileno()]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
@pytest.mark.parametrize("kind", ["FIFO", "link to a device", "link loop", "folder", "socket"])
def test_what_is_no_plain_file_is_an_error_at_once_and_can_be_set_aside(tmp_path, kind):
    path = tmp_path / "marker.json"
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as end:
        {
            "FIFO": lambda: os.mkfifo(path),
            "link to a device": lambda: path.symlink_to("/dev/zero"),
            "link loop": lambda: path.symlink_to(path.name),
            "folder": path.mkdir,
            "socket": lambda: end.bind(str(path)),
        }[kind]()
        for read in (durable.read_bytes, durable.read_text, durable.read_json, durable.sha256_file):
            with pytest.raises(OSError):
                read(path)
        durable.unblock(path)
    assert os.listdir(tmp_path) == ["marker.json.bad"]


def test_a_link_to_a_file_is_read_and_stays(tmp_path):
    durable.write_json(tmp_path / "there.json", {"a": 1})
    (tmp_path / "link.json").symlink_to("there.json")
    durable.unblock(tmp_path / "link.json")
    durable.unblock(tmp_path / "missing.json")
    assert durable.read_json(tmp_path / "link.json") == {"a": 1}
    assert sorted(os.listdir(tmp_path)) == ["link.json", "there.json"]


def test_a_folder_in_the_place_of_a_file_is_set_aside_by_a_write(tmp_path):
    (tmp_path / "x.json" / "inside").mkdir(parents=True)
    (tmp_path / "folder").mkdir()
    (tmp_path / "y.json").symlink_to("folder")
    for name in ("x.json", "y.json"):
        durable.write_json(tmp_path / name, {"a": 1})
        assert durable.read_json(tmp_path / name) == {"a": 1}
    assert sorted(os.listdir(tmp_path)) == ["folder", "x.json", "x.json.bad", "y.json"]
    assert (tmp_path / "x.json.bad" / "inside").is_dir()


def test_json_nested_too_deeply_is_a_value_error(tmp_path):
    durable.write_text(tmp_path / "deep.json", "[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        durable.read_json(tmp_path / "deep.json")


def test_a_file_name_that_is_not_utf8_is_written_and_read_back_as_it_was(tmp_path):
    name = os.fsdecode(b"caf\xe9 \xf0\x9f\x99\x82")
    durable.write_json(tmp_path / "a.json", {name: [name]})
    assert durable.read_json(tmp_path / "a.json") == {name: [name]}
    assert len({durable.digest(name), durable.digest("caf"), durable.digest(name + "\udcff")}) == 3


@each_kind
def test_what_is_no_file_makes_way_where_one_is_removed_or_written_anew(tmp_path, put):
    for change in (durable.remove, lambda path: durable.write_text(path, "whole")):
        put(tmp_path / "x")
        change(tmp_path / "x")
    assert (tmp_path / "x").read_text() == "whole" and not (tmp_path / "x").is_symlink()
    durable.remove(tmp_path / "x")
    durable.remove(tmp_path / "x")
    assert not os.path.lexists(tmp_path / "x")


def test_a_link_makes_way_where_the_file_must_be_ones_own(tmp_path):
    (tmp_path / "there").write_text("precious")
    (tmp_path / "link").symlink_to("there")
    durable.unblock(tmp_path / "link", links=True)
    assert sorted(os.listdir(tmp_path)) == ["link.bad", "there"]
