"""WSD's cool-down: begun when the steps or the clock say so, bent when the clock does; the state before it is kept."""

from __future__ import annotations

from dataclasses import dataclass

from nanogpt.training.job import TrainingJob
from nanogpt.training.record.model_folder import ModelFolder
from nanogpt.training.saving import Saver
from nanogpt.training.state import TrainingState
from nanogpt.training.stopwatch import TrainingClock
from nanogpt.training.update.schedule import CoolDown, cool_down_for_clock, planned_cool_down


@dataclass
class CoolDownPlanner:
    """Keeps progress.cool_down as steps and time want it."""

    job: TrainingJob
    state: TrainingState
    saver: Saver
    folder: ModelFolder
    clock: TrainingClock

    def plan(self) -> None:
        """Between two steps."""
        progress = self.state.progress
        if self.job.config.training.schedule != "wsd":
            return
        planned = self._planned()
        if planned and progress.cool_down is None:
            self.saver.write(self.folder.before_cool_down)
            self.folder.event("cool-down", f"from step {planned.start} to {planned.end}")
            progress.max_seconds = self.job.max_seconds
        progress.cool_down = planned

    def _planned(self) -> CoolDown | None:
        progress, config = self.state.progress, self.job.config
        if self.job.max_seconds and self.clock.knows_pace:
            seconds_per_step = self.clock.pace() * progress.batch(config)
            return cool_down_for_clock(
                progress.step, self.clock.seconds_left(), seconds_per_step, config.training, progress.cool_down
            )
        if progress.cool_down is None and progress.step >= planned_cool_down(config.training).start:
            return planned_cool_down(config.training)
        return progress.cool_down

    def steps_in_sight(self) -> int:
        """How many the training will have made at its end, as far as its pace says; 0 while that is not known."""
        progress, most = self.state.progress, self.job.config.training.max_iters
        if progress.cool_down is not None:
            return progress.cool_down.end
        if not self.job.max_seconds:
            return most
        if not self.clock.knows_pace:
            return 0
        seconds_per_step = self.clock.pace() * progress.batch(self.job.config)
        return int(min(most, progress.step + max(0, self.clock.seconds_left() / seconds_per_step)))

    @property
    def is_over(self) -> bool:
        """Whether the learning rate has come down to the end."""
        progress = self.state.progress
        return progress.cool_down is not None and progress.step >= progress.cool_down.end
