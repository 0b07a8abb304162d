"""What happens to the machine around a run: it sleeps, its battery runs low, it gets hot. Told, and never charged.

Looked at by whoever waits for something anyway (the supervisor between two looks at the trainer, a step that ends),
so that there is no thread and no cost beside training.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flows.machine import power
from flows.machine.awake import Awake
from flows.machine.power import Battery, Heat
from flows.report.markdown import duration

if TYPE_CHECKING:
    from flows.runner.run import Run

SECONDS_BETWEEN_LOOKS = 10.0
SECONDS_BETWEEN_THERMOMETERS = 60.0  # pmset is a process
NOTABLE_SLEEP = 5.0  # seconds
CHARGED_ABOVE = 5.0  # percent over the set charge: else a run would stop again at once


class Surroundings:
    """The machine's state as last looked at, for one run."""

    def __init__(self, run: Run):
        self._run = run
        self._awake = Awake()
        self._battery: Battery | None = None
        self._heat: Heat | None = None
        self._looked_at = self._felt_at = float("-inf")

    def begin(self) -> None:
        """Keep the machine awake, and note how things stand at the start of a session."""
        self._run.log.write(self._awake.hold())
        self._battery, self._heat = power.battery(), power.heat()
        self._looked_at = self._felt_at = time.monotonic()
        known = [str(state) for state in (self._battery, self._heat) if state is not None]
        self._run.log.write(f"power and heat: {', '.join(known) or 'this machine tells nothing of them'}")

    def end(self) -> None:
        """Let the machine sleep again."""
        self._awake.release()

    def look(self, step: str) -> None:
        """Tell what has changed since the last look, at most every ten seconds."""
        now = time.monotonic()
        if now - self._looked_at < SECONDS_BETWEEN_LOOKS:
            return
        self._looked_at = now
        self.tell_sleep(step)
        before, self._battery = self._battery, power.battery()
        if before and self._battery and before.discharging != self._battery.discharging:
            self._run.log.write(f"power: {self._battery}")
        if now - self._felt_at >= SECONDS_BETWEEN_THERMOMETERS:
            self._felt_at = now
            self._tell_heat()

    def reason_to_pause(self, step: str) -> str:
        """Why training should save and wait now; "" to go on."""
        self._run.pulse()
        self.look(step)
        return str(self._battery) if self._is_low() else ""

    def wait_for_power(self, step: str) -> None:
        """Return once there is power, or charge enough; the time it takes is not the budget's."""
        self._battery = power.battery()
        if not self._is_low():
            return
        evidence, enough = str(self._battery), self._run.config.min_charge + CHARGED_ABOVE
        self._run.tell(f"{evidence}: training waits for power, or for {enough:.0f} %; this time is not the budget's. "
                       f"--min-charge 0 would go on", "warning")  # fmt: skip
        began = time.monotonic()
        self._awake.release()  # a machine that sleeps while it waits keeps its last charge
        with self._run.clock.stopped():
            while self._battery is not None and self._battery.discharging and self._battery.percent < enough:
                self._run.pulse()
                time.sleep(SECONDS_BETWEEN_LOOKS)
                self._battery = power.battery()
        self._awake.hold()
        self._run.remedy(
            step=step, symptom="low_charge", evidence=evidence, remedy="saved, and waited for power",
            outcome=f"went on with {self._battery or 'no battery'}", cost_seconds=round(time.monotonic() - began, 1),
            steps_lost=0,
        )  # fmt: skip
        self.tell_sleep(step)

    def tell_sleep(self, step: str) -> None:
        """A row for the report when the machine has slept since the last look."""
        slept = self._run.clock.slept()
        if slept >= NOTABLE_SLEEP:
            self._run.remedy(
                step=step, symptom="asleep", evidence=f"the machine was asleep for {duration(slept)}",
                remedy="left out of the budget", outcome="went on where it was", cost_seconds=round(slept, 1),
                steps_lost=0,
            )  # fmt: skip

    def _tell_heat(self) -> None:
        before, self._heat = self._heat, power.heat()
        if self._heat is not None and self._heat.hot != (before is not None and before.hot):
            words = "hot: it slows itself down, and training takes longer" if self._heat.hot else "cool again"
            self._run.tell(f"the machine is {words} ({self._heat})", "warning" if self._heat.hot else "info")

    def _is_low(self) -> bool:
        battery = self._battery
        return battery is not None and battery.discharging and battery.percent < self._run.config.min_charge
