"""What happens to the machine during a run: it sleeps, its battery runs low, it gets hot. Reported, and never charged.

Looked at by whoever waits for something anyway (the supervisor between two looks at the trainer, a step that ends),
so that there is no thread and no cost next to training.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from flows.context.budget_clock import BudgetClock
from flows.context.journal import Journal
from flows.machine import power
from flows.machine.awake import Awake
from flows.machine.energy import EnergyMeter
from flows.machine.power import Battery, Heat
from nanogpt.units import duration

SECONDS_BETWEEN_LOOKS = 10.0
SECONDS_BETWEEN_THERMOMETERS = 60.0  # pmset is a process
NOTABLE_SLEEP = 5.0  # seconds
CHARGED_ABOVE = 5.0  # percent over the set charge: else a run would stop again at once


class MachineConditions:
    """The machine's state as last looked at. Training waits for power below `min_charge` percent."""

    def __init__(
        self, journal: Journal, clock: BudgetClock, min_charge: float, pulse: Callable[[], None], energy: EnergyMeter
    ):
        self._journal, self._clock, self._min_charge, self._pulse = journal, clock, min_charge, pulse
        self.energy = energy
        self._awake = Awake()
        self._battery: Battery | None = None
        self._heat: Heat | None = None
        self._looked_at = self._felt_at = float("-inf")

    def begin(self, continues: bool = False) -> None:
        """Keep the machine awake, and log how things stand at the start of a session; `continues`: of a run that an
        earlier one began."""
        self._journal.log(self._awake.hold())
        self.energy.begin(continues)
        self._battery, self._heat = power.battery(), power.heat()
        self._looked_at = self._felt_at = time.monotonic()
        known = [str(state) for state in (self._battery, self._heat) if state is not None]
        self._journal.log(f"power and heat: {', '.join(known) or 'unknown on this machine'}")

    def end(self) -> None:
        """Let the machine sleep again."""
        self._awake.release()

    def look(self, step: str) -> None:
        """Report what has changed since the last look, at most every ten seconds."""
        now = time.monotonic()
        if now - self._looked_at < SECONDS_BETWEEN_LOOKS:
            return
        self._looked_at = now
        self.energy.look()
        self.report_sleep(step)
        before, self._battery = self._battery, power.battery()
        if before and self._battery and before.discharging != self._battery.discharging:
            self._journal.log(f"power: {self._battery}")
        if now - self._felt_at >= SECONDS_BETWEEN_THERMOMETERS:
            self._felt_at = now
            self._report_heat()

    def reason_to_pause(self, step: str) -> str:
        """Why training should save and wait now; "" to continue."""
        self._pulse()
        self.look(step)
        return str(self._battery) if self._is_low() else ""

    def wait_for_power(self, step: str) -> None:
        """Return once there is power, or charge enough. Waiting does not count against the budget."""
        self._battery = power.battery()
        if not self._is_low():
            return
        evidence, enough = str(self._battery), self._min_charge + CHARGED_ABOVE
        self._journal.message(
            f"{evidence}: training waits for power, or for {enough:.0f} %. Waiting does not count against the budget; "
            "--min-charge 0 trains on",
            "warning",
        )
        began = time.monotonic()
        self._awake.release()  # a machine that sleeps while it waits keeps its last charge
        with self._clock.stopped():
            while self._battery is not None and self._battery.discharging and self._battery.percent < enough:
                self._pulse()
                time.sleep(SECONDS_BETWEEN_LOOKS)
                self._battery = power.battery()
        self._awake.hold()
        outcome = f"continued with {self._battery or 'no battery'}"
        waited = time.monotonic() - began
        self._journal.record(step, "low_charge", evidence, "saved, and waited for power", outcome, waited)
        self.report_sleep(step)

    def report_sleep(self, step: str) -> None:
        """A row for the report when the machine has slept since the last look."""
        slept = self._clock.slept()
        if slept >= NOTABLE_SLEEP:
            evidence = f"the machine was asleep for {duration(slept)}"
            self._journal.record(step, "asleep", evidence, "left out of the budget", "continued where it was", slept)

    def _report_heat(self) -> None:
        before, self._heat = self._heat, power.heat()
        if self._heat is not None and self._heat.hot != (before is not None and before.hot):
            words = "hot: it slows itself down, and training takes longer" if self._heat.hot else "cool again"
            self._journal.message(f"the machine is {words} ({self._heat})", "warning" if self._heat.hot else "info")

    def _is_low(self) -> bool:
        battery = self._battery
        return battery is not None and battery.discharging and battery.percent < self._min_charge
