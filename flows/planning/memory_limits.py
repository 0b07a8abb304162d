"""What ran out of memory on this machine before, in any run: the planner and every training start from what fitted.

The file is nanogpt.measure.memory_store's, state/memory.json of the workspace. What a person sets is stronger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from flows.context.journal import Journal
from flows.planning.planner import STEP_SPLIT
from flows.planning.site import Site
from nanogpt.config import Config
from nanogpt.fit import Fit
from nanogpt.measure.memory_store import STORE, Limit, MemoryStore


class MemoryLimits:
    """The limits known in `folder`. `pinned`: dotted settings that a person made; `started`: when the run began, or
    "" before it has."""

    def __init__(self, folder: Path, journal: Journal, pinned: frozenset[str], started: Callable[[], str]):
        self._journal, self._pinned, self._started = journal, pinned, started
        self._store = MemoryStore(folder, lambda message: journal.message(message, "warning"))

    def limit(self, config: Config, site: Site) -> Limit | None:
        """How `config` fitted, or that it did not; None where nothing is known, or there is more memory than then.

        A micro-batch that a person has set is tried again in each run, but only once.
        """
        limit = self._store.limit(site.settle(config), site.memory_bytes)
        if limit is None:
            return None
        since_the_start = bool(self._started()) and limit.when >= self._started()
        return limit if since_the_start or not self._pinned & STEP_SPLIT else None

    def note(self, config: Config, site: Site, fit: Fit | None, evidence: str) -> None:
        """Remember that `config` ran out of memory and continues as `fit`; None: it does not fit at all."""
        try:
            self._store.note_limit(site.settle(config), site.memory_bytes, fit, evidence)
        except OSError as error:  # the training continues; the next run finds out by itself
            self._journal.message(f"what fits into memory could not be remembered: {error}", "warning")

    def as_it_fitted(self, config: Config, site: Site) -> Config:
        """`config` as it fitted before: the same effective batch, in passes that have room."""
        limit = self.limit(config, site)
        if limit is None or limit.fits is None:
            return config
        fit: Fit | None = Fit.of(config)
        while fit is not None and fit.micro_batch > max(1, limit.fits.micro_batch):
            fit = fit.smaller(config.training.sequences_per_step, config.model.block_size)
        if fit is None:
            return config
        if limit.fits.gradient_checkpointing and "device.gradient_checkpointing" not in self._pinned:
            fit = replace(fit, gradient_checkpointing=True)
        if limit.fits.longest_window and "device.longest_window" not in self._pinned:
            fit = replace(fit, longest_window=limit.fits.longest_window)
        if fit == Fit.of(config):
            return config
        self._journal.message(
            f"{config.name}: {fit}, as it fitted on {limit.when} (state/{STORE}; "
            "--set training.batch_size=N tries again)"
        )
        return fit.applied_to(config)

    def too_large(self, configs: Iterable[Config], site: Site) -> dict[str, str]:
        """{name: why} of those that did not fit before. Reads only."""
        found = {}
        for config in configs:
            limit = self.limit(config, site)
            if limit and limit.fits is None:
                found[config.name] = f"did not fit into memory on {limit.when}: {limit.evidence}"
        return found
