"""Every kind of fault: a module of this folder with KINDS = [Kind(...), ...] takes part by being named here."""

from __future__ import annotations

from bench.faults.kinds import data, device, disk, files, memory, no_files, processes, servers, signals, steps
from bench.faults.stage.kind import Kind

MODULES = (data, device, disk, files, memory, no_files, processes, servers, signals, steps)


def all_kinds() -> list[Kind]:
    """Every kind, group by group."""
    kinds = [kind for module in MODULES for kind in module.KINDS]
    assert len({kind.name for kind in kinds}) == len(kinds), "two kinds of one name"
    return kinds
