"""What orchestration costs, counted from the times of steps and trainers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.faults.series import overhead
from bench.faults.series.overhead import ORCHESTRATOR, SERVER, Trainer, costs, covered, steps_in

pytestmark = pytest.mark.fast
LOG = """\
2026-11-21 08:00:10.000 INFO  session 1 of run default: python3 -m flows.full_run
2026-11-21 08:00:11.000 INFO  environment.folders: started (never run)
2026-11-21 08:00:11.500 INFO  environment.folders: finished in 0.5 s
2026-11-21 08:00:12.000 INFO  dataset.fetch: kept (finished 2026-11-21 07:12, inputs and outputs unchanged)
2026-11-21 08:00:13.000 INFO  training.micro: started (interrupted at 2026-11-21 07:59:00)
2026-11-21 08:00:15.250 INFO  training.micro: finished in 2.3 s
2026-11-21 08:00:16.000 INFO  documentation.report: started (never run)
"""


def test_steps_are_those_that_worked_to_their_end():
    steps = steps_in(LOG)
    lengths = {name: ended - began for name, (began, ended) in steps.items()}
    assert lengths == {"environment.folders": 0.5, "training.micro": 2.25}


intervals = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)).map(lambda pair: (pair[0], pair[0] + pair[1])))


@given(intervals)
def test_covered_counts_each_second_once(parts):
    assert covered(parts) == sum(any(began <= second < ended for began, ended in parts) for second in range(50))


def test_what_no_step_and_no_trainer_explains_is_orchestration(monkeypatch):
    monkeypatch.setattr(overhead, "cores", lambda: 2)
    steps = {"environment.device": (5.0, 7.0), "training.micro": (10.0, 90.0), "evaluation.models": (91.0, 98.0),
             "evaluation.baselines": (91.0, 95.0)}  # fmt: skip
    trainer = Trainer(10.5, 89.0, {ORCHESTRATOR: 2.0, SERVER: 5.0}, {ORCHESTRATOR: 3.0, SERVER: 6.0})
    figures = costs((0.0, 100.0), steps, [trainer])
    assert figures["start, seconds"] == 5.0 and figures["end, seconds"] == 2.0
    assert figures["between steps, seconds"] == 4.0
    assert figures["training steps without their process, seconds"] == 1.5
    assert figures["orchestration, % of the run"] == 12.5 + 1.0
    assert figures["the same, with their processor time before the first training, %"] == 12.5 + 1.0 + 1.0
    assert figures["the same, if the trainer lost all of that processor time, %"] == 12.5 + 2.0
