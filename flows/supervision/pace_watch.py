"""How many steps a training will have made when its clock ends it: fewer than planned are reported while it trains."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from flows.context.journal import Journal
from flows.ledger.facts import PlannedModel
from nanogpt.config import TrainingConfig
from nanogpt.results.training import Heartbeat
from nanogpt.units import duration

SYMPTOM = "slower than planned"
NOTABLE = 0.8  # of the planned steps; fewer are reported
LEAST_WINDOW, WINDOW_SHARE = 20.0, 0.1  # seconds, and share of the training, whose pace counts: a burst is over sooner
WORTH_THE_CHANGE = 0.3  # of the training's time that is left for another model to gain anything


class PaceWatch:
    """Follows the heartbeats of a training that ends after `seconds`; without them, or without a plan, it has no say.

    `planned` is what the plan expects. `has_smaller`: a smaller model could have the time that is left.
    """

    def __init__(
        self,
        step: str,
        training: TrainingConfig,
        planned: PlannedModel | None,
        seconds: float | None,
        journal: Journal,
        has_smaller: bool,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._step, self._enough, self._planned, self._seconds = step, training.enough_steps, planned, seconds
        self._journal, self._has_smaller, self._clock = journal, has_smaller, clock
        self._marks: deque[tuple[float, int]] = deque()  # (when, step) of the window
        self._left = 0.0  # seconds of training
        self._said: set[str] = set()

    def note(self, heartbeat: Heartbeat) -> None:
        """Take in a heartbeat, and report what it means for the number of steps."""
        if self._planned is None or self._seconds is None or heartbeat.activity != "training":
            return
        now = self._clock()
        window = max(LEAST_WINDOW, WINDOW_SHARE * self._seconds)
        self._marks.append((now, heartbeat.step))
        while len(self._marks) > 2 and self._marks[1][0] <= now - window:
            self._marks.popleft()
        self._left = self._seconds - heartbeat.seconds
        in_sight = self.steps_in_sight()
        if in_sight is None or in_sight >= NOTABLE * self._planned.steps:
            return
        if not self._are_too_few(in_sight):
            self._say_once(f"{self._planned.name}: {self._in_words(in_sight)}")
        elif not self.reason_to_give_up():
            self._record_once(self._in_words(in_sight))

    def steps_in_sight(self) -> int | None:
        """At the end of its time, at the pace of the window; None before there is a whole one."""
        if self._seconds is None or not self._marks:
            return None
        (began, first), (now, last) = self._marks[0], self._marks[-1]
        if now - began < max(LEAST_WINDOW, WINDOW_SHARE * self._seconds):
            return None
        return last + int(self._left / (now - began) * max(1, last - first))

    def reason_to_give_up(self) -> str:
        """Why a smaller model had better have the time that is left; "" to go on."""
        in_sight = self.steps_in_sight()
        if self._planned is None or self._seconds is None or in_sight is None:
            return ""
        is_early = self._left >= max(LEAST_WINDOW, WORTH_THE_CHANGE * self._seconds)
        can_change = self._has_smaller and is_early
        return self._in_words(in_sight) if can_change and self._are_too_few(in_sight) else ""

    def _are_too_few(self, in_sight: int) -> bool:
        """Of a training whose plan has enough."""
        return self._planned is not None and in_sight < self._enough <= self._planned.steps

    def _in_words(self, in_sight: int) -> str:
        assert self._planned is not None and self._seconds is not None
        worth = f"; {self._enough:,} make a model worth having" if in_sight < self._enough else ""
        return (
            f"the machine is slower than when it was measured: about {in_sight:,} steps in {duration(self._seconds)} "
            f"instead of {self._planned.steps:,}{worth}"
        )

    def _say_once(self, words: str) -> None:
        if not self._said:
            self._said.add("said")
            self._journal.message(words, "warning")

    def _record_once(self, evidence: str) -> None:
        """A row of the report: nothing smaller can take its place."""
        if "recorded" not in self._said:
            self._said |= {"said", "recorded"}
            self._journal.record(self._step, SYMPTOM, evidence, "trained on until its time is over")
