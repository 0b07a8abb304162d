"""Whatever byte a write is cut at, by a limit of the system itself: what was there before is whole, and nothing else is
there; what lies on the disk and rots is noticed, whichever bytes they are."""

import io
import resource
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flows.context.action_log import ActionLog
from nanogpt import durable, faults
from nanogpt.faults import CorruptFileError, FolderLostError
from nanogpt.training.record.metrics import HeartbeatFile, JsonLines, read_rows
from nanogpt.weights import checkpoint

parts = st.floats(0, 1, exclude_max=True)  # of what is written: where it is cut


@contextmanager
def files_may_have(size: int):
    """At most so many bytes each (ulimit -f): the write that would go beyond gets a part in, or EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def save(folder: Path, step: int) -> Path:
    path = checkpoint.step_folder(folder, step)
    state = {"cursor": step, "moments": torch.full((40,), float(step))}
    checkpoint.save(path, nn.Linear(3, 2), step=step, facts={"loss": 2.5}, state=state)
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    save(folder, 5)
    return folder


@settings(max_examples=60, deadline=None)
@given(cut_at=parts, step=st.sampled_from([5, 6]))
def test_a_checkpoint_cut_anywhere_leaves_the_one_before(saved, cut_at, step):
    before = contents(saved)
    largest = max(map(len, before.values()))
    with files_may_have(int(cut_at * largest)), pytest.raises(OSError) as error:
        save(saved, step)
    assert faults.classify(error.value) == faults.DISK_FULL
    assert contents(saved) == before
    assert checkpoint.load_newest(saved, pytest.fail).step == 5


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_region_of_a_checkpoint_zeroed_or_overwritten_is_noticed(saved, data):
    path = data.draw(st.sampled_from(sorted((saved / "step-00000005").iterdir())))
    content = path.read_bytes()
    begin = data.draw(st.integers(0, len(content) - 1))
    end = data.draw(st.integers(begin + 1, min(len(content), begin + 4096)))
    damaged = content[:begin] + bytes([data.draw(st.sampled_from([0, 255]))]) * (end - begin) + content[end:]
    path.write_bytes(damaged)
    try:
        if damaged != content:
            with pytest.raises(CorruptFileError):
                checkpoint.load(path.parent)
    finally:
        path.write_bytes(content)


@settings(max_examples=40, deadline=None)
@given(old=st.binary(max_size=300), new=st.binary(min_size=1, max_size=300), cut_at=parts)
def test_a_file_replaced_in_part_stays_what_it_was(tmp_path_factory, old, new, cut_at):
    folder = tmp_path_factory.mktemp("durable")
    durable.write_bytes(folder / "file", old)
    with files_may_have(int(cut_at * len(new))), pytest.raises(OSError):
        durable.write_bytes(folder / "file", new)
    assert contents(folder) == {"file": old}


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=80), cut_at=parts)
def test_a_row_or_a_line_is_whole_or_absent(tmp_path_factory, text, cut_at):
    folder = tmp_path_factory.mktemp("rows")
    rows, log = JsonLines(folder / "rows.jsonl"), ActionLog(folder / "log.txt")
    rows.append({"step": 1})
    log.write("one")
    before = contents(folder)
    with files_may_have(len(before["rows.jsonl"]) + int(cut_at * len('{"text": ""}'))), pytest.raises(OSError):
        rows.append({"step": 2, "text": text})
    with files_may_have(len(before["log.txt"]) + int(cut_at * 30)), redirect_stderr(io.StringIO()) as said:
        log.write(text)  # which ends no run
    assert "File too large" in said.getvalue()
    assert contents(folder) == before
    rows.append({"step": 2, "text": text})
    rows.close()
    assert list(read_rows(rows.path)) == [{"step": 1}, {"step": 2, "text": text}]


def test_a_folder_that_is_kept_to_is_not_made_anew(tmp_path):
    folder = tmp_path / "workspace"
    folder.mkdir()
    with durable.keep_to(folder):
        durable.write_text(folder / "state" / "a", "a")
        folder.rename(tmp_path / "elsewhere")
        for _ in ("gone", "another one stands there"):
            with pytest.raises(FolderLostError, match="is gone"):
                durable.write_text(folder / "state" / "a", "b")
            assert list(tmp_path.rglob("a")) == [tmp_path / "elsewhere" / "state" / "a"]
            folder.mkdir(exist_ok=True)
    durable.write_text(folder / "state" / "a", "c")


def test_the_heartbeat_notices_that_its_folder_is_gone_though_files_in_it_are_open(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    heart, rows = HeartbeatFile(folder / "heartbeat", steps=10), JsonLines(folder / "metrics.jsonl")
    heart.beat(0, "training")
    folder.rename(tmp_path / "elsewhere")
    rows.append({"step": 1})
    with pytest.raises(FolderLostError) as error:
        heart.beat(1, "saving")
    assert faults.classify(error.value) == faults.READ_ONLY and not folder.exists()
    rows.close()
