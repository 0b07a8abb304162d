"""Damaged outputs of finished steps: found by their digests, and made again to the same bytes."""

from __future__ import annotations

from flows.runner.run import Run


def remake_damaged(run: Run, phase: str) -> list[str]:
    """Check every output of a phase's finished steps and run again what made a damaged one; what was damaged, in words.

    Raises RuntimeError when other bytes came out: no later step can use those.
    """
    remade = []
    for step in run.steps():
        damage = run.ledger.damage(step.name) if step.phase == phase and run.has_finished(step.key) else None
        if damage is None:
            continue
        before = run.ledger.output_digest(step.name)
        run.do(step.key)
        if run.ledger.output_digest(step.name) != before:
            raise RuntimeError(f"{damage}, and it cannot be made again as it was: {step.title} gave other output")
        remade.append(damage)
    return remade
