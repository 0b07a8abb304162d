"""The time line of a run, from the moments that its sessions noted: kills, sleep and remedies in their places."""

import time
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.context.timeline import Moment, Timeline
from flows.report.timeline import timeline
from tests.flows.report import report_facts

pytestmark = pytest.mark.fast


def test_a_run_that_was_killed_shows_what_was_cut_short_and_how_long_nothing_ran(tmp_path):
    facts = report_facts.complete_facts(tmp_path)
    woken = datetime.fromtimestamp(facts.timeline[0].time + 30).isoformat()
    asleep = replace(facts.remedies[0], symptom="asleep", when=woken, cost_seconds=12.0)
    found = timeline(replace(facts, remedies=[*facts.remedies, asleep]))
    assert found.lanes == [f"{phase.number} {phase.title}" for phase in facts.phases]
    (cut,) = [span for span in found.spans if span.state == "cut short"]
    assert cut.lane == "5 Training" and cut.end - cut.begin == pytest.approx(90)
    killed, memory = found.marks
    assert (killed.lane, killed.label) == ("", "killed") and killed.time == pytest.approx(cut.end)
    assert (memory.lane, memory.label) == ("5 Training", "out of memory")
    gap, sleep = found.breaks
    assert (gap.label, gap.begin) == ("not running", cut.end) and gap.end - gap.begin == pytest.approx(600)
    assert (sleep.label, sleep.begin, sleep.end) == ("asleep", pytest.approx(18), pytest.approx(30))


def test_of_a_run_that_older_code_began_there_is_none(tmp_path):
    assert timeline(replace(report_facts.complete_facts(tmp_path), timeline=[])) is None


def test_moments_are_of_the_run_that_began_last_and_a_torn_line_is_left_out(tmp_path):
    noted = Timeline(tmp_path / "state" / "timeline.jsonl")
    assert noted.moments() == []
    for event, name in [("session began", "1"), ("step began", "a.b"), ("session began", "1"), ("step began", "c.d"),
                        ("session began", "2")]:  # fmt: skip
        noted.note(event, name)
    with open(tmp_path / "state" / "timeline.jsonl", "a") as file:
        file.write('{"time": 3, "event": "step en')
    assert [(row.event, row.name) for row in noted.moments()] == [
        ("session began", "1"), ("step began", "c.d"), ("session began", "2"),
    ]  # fmt: skip


def test_a_clock_that_is_set_while_a_run_works_moves_no_later_moment(tmp_path, monkeypatch):
    noted = Timeline(tmp_path / "timeline.jsonl")
    noted.note("session began", "1")
    set_forward = time.time() + 86_400
    monkeypatch.setattr(time, "time", lambda: set_forward)
    noted.note("step began", "a.b")
    before, after = noted.moments()
    assert 0 <= after.time - before.time < 60


def test_a_line_that_rotted_costs_no_other(tmp_path):
    noted = Timeline(tmp_path / "timeline.jsonl")
    for event, name in [("session began", "1"), ("step began", "a.b"), ("step ended", "a.b")]:
        noted.note(event, name)
    whole = (tmp_path / "timeline.jsonl").read_bytes()
    (tmp_path / "timeline.jsonl").write_bytes(whole.replace(b"step began", b"step \xe2egan") + b"[" * 100_000 + b"\n")
    assert [row.event for row in noted.moments()] == ["session began", "step ended"]


EVENTS = st.sampled_from(["session began", "session ended", "killed", "step began", "step ended"])
STEPS = st.sampled_from(["training.micro", "dataset.clean", "other.thing", "2"])


@given(st.lists(st.tuples(st.floats(0, 1e6), EVENTS, STEPS), min_size=1, max_size=20))
def test_whatever_the_clock_did_no_span_runs_backwards(rows):
    moments = [Moment(1.7e9 + time, event, name) for time, event, name in rows]
    facts = replace(report_facts.bare_facts(), timeline=moments)
    found = timeline(facts)
    assert (found is None) == all(event != "step began" for _, event, _ in rows)
    for span in found.spans if found else []:
        assert span.lane in {"4 Dataset", "5 Training"} and span.begin <= span.end
    for gap in found.breaks if found else []:
        assert gap.begin <= gap.end
