"""The action log: one line an action, whoever writes it and however the last session ended."""

import os
import re
import resource
import signal
import threading

import pytest

from flows.context.action_log import ActionLog

pytestmark = pytest.mark.fast


def test_a_line_has_its_time_and_level(tmp_path):
    log = ActionLog(tmp_path / "logs" / "default" / "automation_log.txt")
    log.write("dataset.clean: started (never run)")
    log.write("tight on disk", level="warning")
    first, second = log.path.read_text().splitlines()
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"
    assert re.fullmatch(time + r" INFO  dataset\.clean: started \(never run\)", first)
    assert re.fullmatch(time + r" WARNING tight on disk", second)


def test_a_later_session_appends(tmp_path):
    ActionLog(tmp_path / "log.txt").write("one")
    ActionLog(tmp_path / "log.txt").write("two")
    assert [line[-3:] for line in (tmp_path / "log.txt").read_text().splitlines()] == ["one", "two"]


def test_a_line_cut_by_a_kill_does_not_swallow_the_next(tmp_path):
    (tmp_path / "log.txt").write_text("2026-11-20 23:50:12.345 INFO  half a li")
    ActionLog(tmp_path / "log.txt").write("whole")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert len(lines) == 2
    assert lines[1].endswith("INFO  whole")


def test_further_lines_of_a_message_are_indented(tmp_path):
    ActionLog(tmp_path / "log.txt").write("failed:\nno space\nleft")
    assert (tmp_path / "log.txt").read_text().splitlines()[1:] == ["    no space", "    left"]


def test_what_a_terminal_would_obey_is_written_as_an_escape(tmp_path):
    ActionLog(tmp_path / "log.txt").write("text: a\x1b[2J.txt")
    assert (tmp_path / "log.txt").read_text().endswith("text: a\\x1b[2J.txt\n")


def test_threads_do_not_mix_their_lines(tmp_path):
    log = ActionLog(tmp_path / "log.txt")

    def write_many(name: str) -> None:
        for number in range(100):
            log.write(f"{name}{number} " + name * 50)

    threads = [threading.Thread(target=write_many, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = log.path.read_text().splitlines()
    assert len(lines) == 400
    assert all(re.search(r"INFO  (.)\d+ \1{50}$", line) for line in lines)


def test_a_disk_that_takes_no_more_does_not_stop_the_run(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    ActionLog(tmp_path / "file" / "log.txt").write("model saved")
    assert "model saved" in capsys.readouterr().err


def test_a_line_that_the_disk_takes_half_of_leaves_nothing(tmp_path, capsys):
    log = ActionLog(tmp_path / "log.txt")
    log.write("whole")
    before = log.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
        log.write("more than ten bytes")
        log.write("more again")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert log.path.read_bytes() == before
    assert capsys.readouterr().err.count("more") == 1  # a trouble that lasts is reported once


@pytest.mark.parametrize("place", ["a link to a file", "a link to nothing", "a folder", "a FIFO"])
def test_what_is_no_plain_file_is_set_aside_and_never_written_through(tmp_path, place):
    path, other = tmp_path / "log.txt", tmp_path / "other.txt"
    if place == "a FIFO":
        os.mkfifo(path)
    elif place == "a folder":
        path.mkdir()
    else:
        path.symlink_to(other)
    if place == "a link to a file":
        other.write_text("precious")
    ActionLog(path).write("whole")
    assert path.read_text().endswith("INFO  whole\n") and path.is_file() and not path.is_symlink()
    assert os.path.lexists(tmp_path / "log.txt.bad")
    assert not other.exists() or other.read_text() == "precious"


def test_nobody_else_may_write_it_whatever_the_umask(tmp_path):
    mask = os.umask(0)
    try:
        ActionLog(tmp_path / "log.txt").write("whole")
    finally:
        os.umask(mask)
    assert (tmp_path / "log.txt").stat().st_mode & 0o777 == 0o644


def test_characters_that_are_no_utf_8_are_escapes(tmp_path):
    ActionLog(tmp_path / "log.txt").write("file \udcff.txt")
    assert r"file \udcff.txt" in (tmp_path / "log.txt").read_text()
