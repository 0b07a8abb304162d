"""Puts a run together from what was asked for: every part is given what it needs, and none the whole."""

from __future__ import annotations

from collections.abc import Sequence

from flows.context.action_log import ActionLog
from flows.context.budget_clock import BudgetClock
from flows.context.journal import Journal
from flows.context.options import RunOptions
from flows.context.paths import CHECKOUT, Paths
from flows.context.provenance import versions
from flows.context.watchdog import Watchdog
from flows.ledger.ledger import Ledger
from flows.machine.accelerator import Accelerator
from flows.machine.conditions import MachineConditions
from flows.machine.disk import DiskSpace
from flows.machine.energy import EnergyMeter
from flows.planning.lost_texts import LostTexts
from flows.planning.memory_limits import MemoryLimits
from flows.planning.missed_paces import MissedPaces
from flows.runner.milestones import Milestones
from flows.runner.phase_runner import PhaseRunner
from flows.runner.run import Phase, Run
from flows.runner.sessions import Session
from flows.runner.step_runner import StepRunner
from nanogpt.process.endings import Death
from nanogpt.process.worker import Worker


def assemble(options: RunOptions, phases: Sequence[Phase]) -> Run:
    """A run of `phases`. Reads only: nothing is written before its session begins."""
    paths = Paths(options.workspace, options.run)
    log = ActionLog(paths.logs / "automation_log.txt")
    journal = Journal(log, paths.state / "remedies.json")
    clock = BudgetClock(paths.state / "clock.json", options.config.budget)
    ledger = Ledger(paths.markers, options.workspace, CHECKOUT, versions())
    watchdog = Watchdog(journal.log)

    def pulse() -> None:
        ledger.pulse()
        watchdog.beat()

    def worker_died(death: Death, seconds: float) -> None:
        remedy, outcome = "once more in a fresh process", "nothing was lost"
        journal.record(phase_runner.running(), death.symptom, death.evidence, remedy, outcome, seconds)

    worker = Worker(paths.logs / "worker.log", worker_died, watchdog.beat)
    disk = DiskSpace(paths, journal, clock, pulse, worker.close)
    energy = EnergyMeter(paths.state / "energy.json")
    conditions = MachineConditions(journal, clock, options.config.min_charge, pulse, energy)
    step_runner = StepRunner(ledger, journal, disk, clock, options.redo, pulse, conditions.look)
    names = [phase.name for phase in phases]
    phase_runner = PhaseRunner(names, journal, step_runner, clock, options.only, options.command)
    asked_of_device = {f"device.{key}" for key in options.config.device.model_fields_set}
    run: Run
    session = Session(options, paths, journal, clock, ledger, phase_runner, lambda: [s.name for s in run.steps()])
    run = Run(
        options=options,
        phases=tuple(phases),
        paths=paths,
        clock=clock,
        journal=journal,
        ledger=ledger,
        worker=worker,
        disk=disk,
        conditions=conditions,
        accelerator=Accelerator(paths.state / "device.json", journal, worker),
        limits=MemoryLimits(paths.all_states, journal, options.pinned | asked_of_device, lambda: session.started),
        missed_paces=MissedPaces(paths.state),
        lost_texts=LostTexts(paths.state, [options.config.budget, options.config.data.model_dump()["mirror"]]),
        milestones=Milestones(CHECKOUT, options.workspace, options.run, paths.state),
        step_runner=step_runner,
        phase_runner=phase_runner,
        session=session,
        watchdog=watchdog,
        pulse=pulse,
    )
    return run
