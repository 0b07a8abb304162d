"""What a start takes over from those before it, and what it leaves for those after it."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from flows.cli.lock import exclusive
from flows.context.budget_clock import BudgetClock
from flows.context.journal import Journal
from flows.context.options import RunConfig, RunOptions
from flows.ledger.facts import Remedy
from flows.runner.sessions import Session, read_session
from nanogpt import durable
from nanogpt.records import to_json
from nanogpt.results.training import Heartbeat
from tests.flows.small_flow import ALL, DEVICE, REPORT, TRAIN, Flow, Parts

pytestmark = pytest.mark.fast


class Start(Parts):
    """One start: the parts with a session."""

    def __init__(self, flow: Flow, only: str | None = None, fresh: bool = False):
        super().__init__(flow, only=only)
        options = options_for(flow.workspace, only, fresh)
        self.session = Session(options, self.paths, self.journal, self.clock, self.ledger, self.phases, lambda: ALL)
        self.session.begin()

    def finish(self) -> None:
        """All of the flow."""
        for name in ("implementation", "configuration", "deployment"):
            self.phases.run(name, lambda: None)
        self.run_phases()
        self.session.end(stopped=False)

    def symptoms(self) -> list[str]:
        return [row.symptom for row in self.journal.remedies]


def options_for(workspace: Path, only: str | None, fresh: bool) -> RunOptions:
    unasked = dict.fromkeys(("ui", "status", "plan", "install_at_boot", "uninstall", "fixed"), False)
    return RunOptions(RunConfig(budget=600), (), pinned=frozenset(), workspace=workspace, only=only, redo=(),
                      fresh=fresh, words=(), **unasked)  # fmt: skip


@pytest.fixture
def flow(tmp_path) -> Flow:
    return Flow(tmp_path)


def test_sessions_are_counted_from_the_first_moment_until_the_run_is_done(flow):
    for number in (1, 2, 3):  # each killed as soon as it has begun
        start = Start(flow)
        assert start.session.number == number
    started = start.session.started
    start = Start(flow)
    assert (start.session.number, start.session.started) == (4, started)
    start.finish()
    assert Start(flow).session.number == 1  # a new run on what is there


@pytest.mark.parametrize(
    "failing, stopped, ended",
    [(None, False, "finished"), (None, True, "stopped"), (RuntimeError("no remedy is left"), False, "failed")],
)
def test_how_a_session_ended_is_in_its_record_with_its_phases(flow, failing, stopped, ended):
    if failing:
        flow.failing["training.micro"] = failing
    start = Start(flow)
    assert flow.ended == "running"
    start.finish()
    start.session.end(stopped)
    assert flow.ended == ended
    training = flow.note("session.json")["phases"][4]
    assert (training["number"], training["title"]) == (5, "Training")
    assert training["cause"] == ("no remedy is left" if failing else None)
    assert flow.note("clock.json")["finished"] is (ended == "finished")


@pytest.mark.parametrize(
    "damage, said",
    [
        (Path.unlink, []),
        (lambda file: durable.write_bytes(file, file.read_bytes()[:-9]), ["its second copy is used"]),
    ],
)
def test_a_damaged_record_loses_neither_the_count_nor_the_options_of_a_run(flow, damage, said):
    Start(flow)  # and killed
    recorded = read_session(flow.workspace / "state/default")
    damage(flow.workspace / "state/default/session.json")
    assert read_session(flow.workspace / "state/default") == recorded
    start = Start(flow)
    assert start.session.number == 2
    assert [row.remedy for row in start.journal.remedies if row.symptom == "corrupt_file"] == said


def test_one_phase_alone_does_not_wind_up_the_clock_of_an_unfinished_run(flow):
    flow.failing["training.micro"] = RuntimeError("no remedy is left")
    Start(flow).finish()
    Start(flow, only="documentation").finish()
    assert flow.note("clock.json")["finished"] is False
    flow.failing.clear()
    Start(flow).finish()
    assert flow.note("clock.json")["finished"] is True


def test_a_start_with_nothing_to_do_leaves_the_time_that_the_run_took(flow):
    start = Start(flow)
    start.clock.take_over(400.0)
    start.finish()
    took = flow.note("clock.json")
    assert took["spent_seconds"] >= 400
    Start(flow)  # and killed
    assert flow.note("clock.json")["finished"] is False
    Start(flow).finish()
    assert flow.note("clock.json") == took
    flow.settings["documentation.report"] = {"another": 1}
    Start(flow).do(REPORT)  # and killed
    Start(flow).finish()
    assert flow.note("clock.json")["spent_seconds"] < 400


def test_fresh_sets_everything_aside_and_loses_nothing(flow):
    Start(flow).finish()
    download = flow.workspace / "data/downloads/play.txt"
    durable.write_text(download, "To be")
    before = {path.read_bytes() for path in flow.workspace.rglob("*") if path.is_file()}
    flow.worked.clear()
    start = Start(flow, fresh=True)
    start.finish()
    assert flow.worked == ALL and start.session.number == 1 and start.journal.past_remedies == []
    assert download.read_text() == "To be"
    assert before <= {path.read_bytes() for path in flow.workspace.rglob("*") if path.is_file()}
    assert list(flow.workspace.glob("data/default.*/training.micro.bin"))


def test_a_full_disk_costs_a_sessions_notes_and_not_the_session(flow, monkeypatch):
    def full(path, value):
        raise OSError(28, "No space left on device", str(path))

    start = Start(flow)
    monkeypatch.setattr(durable, "write_note", full)
    start.phases.run("implementation", lambda: None)
    start.session.end(stopped=False)


def test_the_clock_continues_over_killed_sessions_and_begins_anew_after_a_success_or_with_another_budget(
    tmp_path, monkeypatch
):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def start(budget: float = 600.0) -> BudgetClock:
        clock = BudgetClock(tmp_path / "clock.json", budget)
        clock.resume()
        return clock

    clock = start()
    now += 40
    clock.save()  # and killed
    now += 500  # which is nobody's
    clock = start()
    now += 10
    assert (clock.spent, clock.left) == (50, 550)
    clock.save()
    assert start(budget=3600.0).spent == 0
    clock.save(finished=True)
    assert start().spent == 0


# A session that never ended


def test_a_session_that_never_ended_is_a_row_with_what_is_done_again(flow):
    start = Start(flow)
    start.ledger.start(flow.work(TRAIN), {}, "never run")
    folder = start.paths.model("micro")
    (folder / "checkpoints/step-00000060").mkdir(parents=True)
    durable.write_json(folder / "heartbeat", to_json(Heartbeat(80, 1000, "training", seconds=8.0)))  # and killed
    start = Start(flow)
    [row] = start.journal.remedies
    assert (row.symptom, row.step, row.steps_lost, row.cost_seconds) == ("interrupted", "training.micro", 20, 2.0)
    start.session.end(stopped=True)
    assert Start(flow).journal.remedies == [], "what was stopped had not been killed"


@pytest.mark.parametrize("damage", ["", "{half", "[]", "{}", '{"budget_seconds": 600, "finished": false}', None])
def test_a_damaged_clock_is_set_by_what_the_steps_took(flow, damage):
    start = Start(flow)
    device = flow.work(DEVICE)
    start.ledger.start(device, {}, "never run")
    start.ledger.finish(device, flow.make(DEVICE.step), seconds=77.0)  # and killed
    clock = flow.workspace / "state/default/clock.json"
    clock.unlink() if damage is None else clock.write_text(damage)
    start = Start(flow)
    assert start.session.number == 2 and 77 <= start.clock.spent < 100
    [remedy] = [row for row in start.journal.remedies if row.symptom != "interrupted"]
    assert "state/default/clock.json: it " in remedy.evidence and remedy.symptom == "corrupt_file"
    start = Start(flow)
    seen = [row.symptom for row in start.journal.past_remedies]
    assert seen.count("corrupt_file") == 1 and "corrupt_file" not in start.symptoms(), "once is enough"
    assert "interrupted" in seen


def test_one_flipped_bit_of_a_clock_is_noticed(flow):
    Start(flow)
    clock = flow.workspace / "state/default/clock.json"
    clock.write_text(clock.read_text().replace('"finished": false', '"finished":  true'))
    start = Start(flow)
    [remedy] = [row for row in start.journal.remedies if row.symptom == "corrupt_file"]
    assert start.session.number == 2 and "sha256 differs" in remedy.evidence


@pytest.mark.parametrize("name", ["session.json", "remedies.json", "clock.json", "holder.json", "lock"])
@pytest.mark.parametrize("damage", ["empty", "zeroed", "a folder", "a dangling link"])
def test_whatever_note_is_damaged_a_session_begins(flow, name, damage):
    Start(flow).finish()
    file = flow.workspace / "state/default" / name
    if file.exists():
        file.unlink()
    if damage == "a folder":
        (file / "within").mkdir(parents=True)
    elif damage == "a dangling link":
        file.symlink_to("nothing")
    else:
        file.write_bytes(b"" if damage == "empty" else bytes(100))
    with exclusive(Parts(flow).paths, "default"):
        start = Start(flow)
        start.session.end(stopped=False)
    evidence = [row.evidence for row in start.journal.remedies if row.symptom == "corrupt_file"]
    assert [name in words for words in evidence] == ([] if name in ("holder.json", "lock") else [True])
    with exclusive(start.paths, "default"):
        assert "corrupt_file" not in Start(flow).symptoms()


def test_remedies_of_all_sessions_are_kept_and_what_is_no_remedy_is_left_out(flow):
    first = Start(flow).journal
    row = first.record("training.micro", "stall", "no step for 60 s", "started again", cost_seconds=2.0)
    row = first.amend(row, outcome="trained", more_seconds=1.5)
    assert row == replace(row, cost_seconds=3.5, outcome="trained")
    file = flow.workspace / "state/default/remedies.json"
    assert Journal(None, file).past_remedies == [row]
    durable.write_note(file, {"remedies": [{"when": "2026"}, "text", durable.read_json(file)["remedies"][0]]})
    assert Journal(None, file).past_remedies == [row] and isinstance(row, Remedy)


def test_a_phase_that_alone_was_asked_for_is_no_finished_run_while_others_are_to_do(flow):
    Start(flow, only="environment", fresh=True).finish()
    assert flow.ended == "partial"
    Start(flow).finish()
    assert flow.ended == "finished"
