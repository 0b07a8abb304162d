"""The database that a new workspace begins with: a copy, or none."""

import dataclasses
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from flows.display import prefect_blank, prefect_process


@pytest.fixture
def blank(tmp_path, monkeypatch) -> Path:
    place = tmp_path / "blank.db"
    monkeypatch.setattr(prefect_blank, "place", lambda: place)
    return place


def database(path: Path, row: int) -> None:
    with closing(sqlite3.connect(path)) as opened:
        opened.executescript(f"create table kept (row); insert into kept values ({row})")


@pytest.mark.fast
def test_without_one_nothing_is_copied(tmp_path, blank):
    prefect_blank.copy_to(tmp_path / "prefect.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fast
def test_the_log_of_a_lost_database_is_not_played_into_the_copy(tmp_path, blank):
    database(blank, row=1)
    lost = tmp_path / "prefect.db"
    database(lost, row=2)
    with closing(sqlite3.connect(lost)) as opened:
        opened.execute("pragma journal_mode = wal")
        opened.execute("insert into kept values (3)")
        opened.commit()
        log = Path(f"{lost}-wal").read_bytes()
    lost.unlink()
    Path(f"{lost}-wal").write_bytes(log)
    prefect_blank.copy_to(lost)
    with closing(sqlite3.connect(lost)) as opened:
        assert opened.execute("select row from kept").fetchall() == [(1,)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blank.db", "prefect.db"]


@pytest.mark.fast
def test_a_rotten_one_costs_time_and_no_pages(tmp_path, blank, monkeypatch):
    blank.write_bytes(b"rotten" * 1000)
    home, said = tmp_path / "home", []
    home.mkdir()
    monkeypatch.setattr(prefect_process, "_start", lambda home, *_: sorted(os.listdir(home)))
    left = prefect_process.start_despite_database(home, 1, said.append, threading.Event())
    assert left == ["prefect.db.bad"], "Prefect makes its own"
    assert "unusable" in said[0] and (home / "prefect.db.bad").read_bytes() == b"rotten" * 1000


@pytest.mark.fast
def test_a_database_without_tables_is_none(tmp_path, blank, monkeypatch):
    """So a server leaves it whose database was deleted: its next connection makes the file."""
    database(blank, row=1)
    left, said = tmp_path / "home/prefect.db", []
    left.parent.mkdir()
    with closing(sqlite3.connect(left)) as opened:
        opened.execute("pragma journal_mode = wal")
    server = prefect_process.Record(1, 1, "", 0.0)
    assert left.stat().st_size > 0 and prefect_process.fault_under_server(left.parent, server) == "gone or empty"
    (left.parent / "server.json").write_text("{}")
    monkeypatch.setattr(prefect_process, "_start", lambda *_: None)
    prefect_process.start_despite_database(left.parent, 1, said.append, threading.Event())
    assert "is gone or empty" in said[0] and prefect_process.fault_under_server(left.parent, server) is None
    before = dataclasses.replace(server, inode=left.stat().st_ino + 1)
    assert prefect_process.fault_under_server(left.parent, before) == "another file is in its place"
    with closing(sqlite3.connect(left)) as opened:
        assert opened.execute("select row from kept").fetchall() == [(1,)]


@pytest.mark.slow
def test_what_is_made_is_what_a_server_takes_for_its_own(tmp_path, blank):
    prefect_blank.make()
    with closing(sqlite3.connect(blank)) as opened:
        tables = {name for (name,) in opened.execute("select name from sqlite_master where type = 'table'")}
        assert opened.execute("select count(*) from flow_run").fetchone() == (0,)
    assert {"flow_run", "task_run", "artifact", "alembic_version"} <= tables
    assert list(blank.parent.iterdir()) == [blank], "nothing of its making is left"


@pytest.mark.fast
def test_a_copy_that_cannot_be_made_is_left_to_prefect(tmp_path, blank):
    database(blank, row=1)
    (tmp_path / "prefect.db.copy").mkdir()
    prefect_blank.copy_to(tmp_path / "prefect.db")
    assert not (tmp_path / "prefect.db").exists()
