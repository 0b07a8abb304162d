"""python -m bench.faults [--kills 100] [--only NAME] [--small] [--jobs 2] [--write]

Every kind of fault on the real command with a small model, two at a time, then kills at random moments and what the
orchestration costs. Exit code 1 when something is not survived, or when an aim is missed: training again within 15 s
of a restart, orchestration under 1 % of a run. The small form, which runs among the tests, only reports an aim.
"""

from __future__ import annotations

import argparse
import fnmatch
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

from bench.faults import table
from bench.faults.kinds.catalogue import all_kinds
from bench.faults.series import aims
from bench.faults.series.kills import kill_series
from bench.faults.series.overhead import overhead
from bench.faults.stage.campaign import Campaign
from bench.faults.stage.finding import NotSurvived
from bench.faults.stage.kind import chosen
from bench.faults.stage.process import Interrupted
from bench.this_machine import this_machine
from flows.context.provenance import code_commit

KILLS, SMALL_KILLS = 100, 3


def main(argv: list[str]) -> int:
    given = _parse(argv)
    kinds = chosen(all_kinds(), given.only, given.small)
    if given.list:
        for kind in kinds:
            print(f"{kind.group:10} {kind.name}: {kind.made}")
        return 0
    folder, began = given.folder or Path(tempfile.mkdtemp(prefix="faults-")), time.monotonic()
    try:
        campaign = Campaign(folder, given.small)
        rows = campaign.rows(kinds, given.jobs)
        series = {name: _measured(campaign, name, given) for name in given.series}
    except (KeyboardInterrupt, Interrupted):
        print("Stopped; every process of the campaign has ended.")
        return 130
    lost = [row["name"] for row in rows if not row["survived"]]
    lost += [name for name, figures in series.items() if not figures["survived"]]
    done = len(rows) + len(series)
    print(f"{done - len(lost)} of {done} survived in {time.monotonic() - began:.0f} s"
          + "".join(f"\n  not survived: {name}" for name in lost)
          + "".join(f"\n  {line}" for line in aims.lines(series)))  # fmt: skip
    if given.write:
        commit = (code_commit() or "unknown")[:7]
        rows = [{**row, "commit": commit} for row in rows]
        table.write({"machine": _machine(), "kinds": rows, **series}, [kind.name for kind in all_kinds()])
    if lost:
        print(f"What is left of them is in {folder / 'scenes'}")
    elif given.folder is None:
        shutil.rmtree(folder)
    return 1 if lost or (aims.missed(series) and not given.small) else 0


def _measured(campaign: Campaign, name: str, given: argparse.Namespace) -> aims.Figures:
    """The figures of a series with its aim; {"survived": False, "why"} when there are none."""
    try:
        if name == "kills":
            figures = kill_series(campaign, given.kills, given.jobs, given.seed)
        else:
            figures = overhead(campaign, given.budget)
    except NotSurvived as error:
        figures = {"survived": False, "why": str(error)}
    if figures.get("survived", True):
        figures = aims.with_aim(name, figures)
    campaign.tell(f"{name}: " + ", ".join(f"{key} {value}" for key, value in figures.items()))
    return figures


def _machine() -> str:
    return f"{this_machine()}, Python {platform.python_version()}"


def _parse(argv: list[str]) -> argparse.Namespace:
    about = __doc__.split("\n\n")[1]
    parser = argparse.ArgumentParser(prog="python -m bench.faults", allow_abbrev=False, description=about)
    add = parser.add_argument
    add("--only", metavar="NAME", help="kinds with this in their name or group (* and ? allowed); kills; overhead")
    add("--small", action="store_true", help=f"as the tests do: no variants, {SMALL_KILLS} kills, no overhead")
    add("--kills", type=int, metavar="N", help=f"kills at random moments (default {KILLS})")
    add("--seed", type=int, metavar="N", help="of the moments of the kills (default: another each time)")
    add("--budget", default="10m", metavar="TIME", help="of the run whose overhead is measured (default 10m)")
    add("--jobs", type=int, default=2, metavar="N", help="kinds at a time (default 2)")
    add("--folder", type=Path, help="keep the templates here, and use those that are there")
    add("--write", action="store_true", help="put what was measured into docs/faults.json and docs/faults.md")
    add("--list", action="store_true", help="show the kinds and how each is made, do nothing")
    given = parser.parse_args(argv)
    if given.kills is None:
        given.kills = SMALL_KILLS if given.small else KILLS
    if given.jobs < 1 or given.kills < 1:
        parser.error("--jobs and --kills must be at least 1")
    series = ["kills"] if given.small else ["kills", "overhead"]
    given.series = [name for name in series if fnmatch.fnmatch(name, f"*{given.only or ''}*")]
    if not given.series and not chosen(all_kinds(), given.only, given.small):
        parser.error(f"--only {given.only}: no kind has that in its name; --list shows them")
    return given


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
