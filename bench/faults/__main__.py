"""python -m bench.faults [--kills 100] [--only NAME] [--small] [--jobs 2] [--write]

Every kind of fault on the real command with a small model, two at a time; exit code 1 when one is not survived.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from bench.faults import table
from bench.faults.campaign import Campaign
from bench.faults.kind import all_kinds, chosen
from bench.faults.process import Interrupted
from nanogpt.machine import cores, processor_name

KILLS, SMALL_KILLS = 100, 10


def main(argv: list[str]) -> int:
    given = _parse(argv)
    kinds = chosen(all_kinds(), given.only, given.small)
    if given.list:
        for kind in kinds:
            print(f"{kind.group:10} {kind.name}: {kind.made}")
        return 0
    folder = given.folder or Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        campaign = Campaign(folder, given.small)
        rows = campaign.rows(kinds, given.jobs)
        facts = {"machine": f"{processor_name()}, {cores()} cores", "kinds": rows}
        if given.only is None:
            facts |= _series(campaign, given)
    except (KeyboardInterrupt, Interrupted):
        print("Stopped; every process of the campaign has ended.")
        return 130
    lost = [row["name"] for row in rows if not row["survived"]]
    lost += [name for name in ("kills",) if not facts.get(name, {"survived": True})["survived"]]
    print(f"{len(rows) - len(lost)} of {len(rows)} kinds survived" + (f"; not: {', '.join(lost)}" if lost else ""))
    if given.write:
        table.write(facts)
    if lost:
        print(f"What is left of those is in {folder / 'scenes'}")
    elif given.folder is None:
        shutil.rmtree(folder)
    return 1 if lost else 0


def _series(campaign: Campaign, given: argparse.Namespace) -> dict:
    """What is measured over many starts: kills at random moments, and the cost of it all."""
    from bench.faults import processes

    kills = processes.kill_series(campaign, given.kills, given.jobs)
    return {"kills": kills} if given.small else {"kills": kills, "overhead": processes.overhead(campaign)}


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__.splitlines()[-1])
    add = parser.add_argument
    add("--only", metavar="NAME", help="the kinds whose name or group has this in it; * and ? are allowed")
    add("--small", action="store_true", help=f"every kind once, {SMALL_KILLS} kills, no measurements")
    add("--kills", type=int, metavar="N", help=f"kills at random moments (default {KILLS})")
    add("--jobs", type=int, default=2, metavar="N", help="kinds at a time (default 2)")
    add("--folder", type=Path, help="keep the templates here, and use those that are there")
    add("--write", action="store_true", help="write docs/faults.md and docs/faults.json")
    add("--list", action="store_true", help="show the kinds and how each is made, do nothing")
    given = parser.parse_args(argv)
    if given.kills is None:
        given.kills = SMALL_KILLS if given.small else KILLS
    if given.jobs < 1 or given.kills < 0:
        parser.error("--jobs must be at least 1, --kills at least 0")
    if given.write and (given.only or given.small):
        parser.error("--write is for the whole campaign: without --only and --small")
    if not chosen(all_kinds(), given.only, given.small):
        parser.error(f"--only {given.only}: no kind has that in its name; --list shows them")
    return given


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
