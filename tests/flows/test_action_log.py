"""The action log: one line an action, whoever writes it and however the last session ended."""

import re
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


def test_characters_that_are_no_utf_8_are_replaced(tmp_path):
    ActionLog(tmp_path / "log.txt").write("file \udcff.txt")
    assert "file ?.txt" in (tmp_path / "log.txt").read_text()
