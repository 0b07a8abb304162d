"""Phase 1: folders, machine, device and packages - what there is, and whether it is enough."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import sys
from importlib.metadata import distributions, version

import psutil

from flows.ledger.ledger import Outcome, Step
from flows.machine import accelerator, disk
from flows.planning import footprint as demands
from flows.report import documents
from flows.runner.run import Run
from nanogpt import durable
from nanogpt.machine import cores, physical_cores, processor_name

GIB = 2**30
PATIENCE = 120.0  # seconds, for a proof of five: a device that hangs
SPARE_DISK = GIB  # for exports, and for others: a model that finds no room is left out by the plan
LEAST_MEMORY = 2 * GIB  # the smallest trainer peaks at 0.43 GiB, Prefect's server holds 0.2; the rest is the system's


def environment(run: Run) -> None:
    run.do(FOLDERS)
    packages = run.beside(PACKAGES)
    run.do(SYSTEM)
    run.do(DEVICE)
    packages()
    device, system = run.facts("environment.device"), run.facts("environment.system")
    run.milestone(
        "environment", f"environment: {device['device']}, {device['name']}",
        f"{system['cores']} cores, {_gib(system['memory_bytes'])} of memory, {_gib(system['disk_free_bytes'])} free.",
        [run.paths.state / name for name in ("system.json", "system_report.md", "requirements.txt")],
    )  # fmt: skip


def make_folders(run: Run) -> Outcome:
    for folder in run.paths.folders():
        folder.mkdir(parents=True, exist_ok=True)
    return Outcome(facts={"folders": [run.relative(folder) for folder in run.paths.folders()]})


def check_system(run: Run) -> Outcome:
    memory = psutil.virtual_memory()
    free = shutil.disk_usage(run.paths.workspace).free
    if free < disk.LEAST:  # full for now, it may be: waited for, as in every step
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(run.paths.state / "system.json"))
    least, most = min(disk_needed(run)), max(disk_needed(run))
    checks = [
        _check("Python", platform.python_version(), "3.11 or newer", sys.version_info >= (3, 11), True,
               "install a newer Python"),
        _check("memory", _gib(memory.total), f"{_gib(LEAST_MEMORY)} at least", memory.total >= LEAST_MEMORY,
               memory.available >= LEAST_MEMORY, f"{_gib(memory.available)} are free: close other programs"),
        _check("disk", _gib(free), f"{_gib(least)}, up to {_gib(most)} for the largest model", free >= least,
               free >= least + SPARE_DISK, f"free {_gib(least + SPARE_DISK - free)}, or choose another --workspace"),
        _check("processor cores", str(cores()), "2 or more", True, cores() >= 2, "training will take longer"),
    ]  # fmt: skip
    facts = {
        "python": platform.python_version(), "platform": platform.platform(), "processor": processor_name(),
        "cores": cores(), "physical_cores": physical_cores(),
        "memory_bytes": memory.total, "memory_available_bytes": memory.available,
        "disk_free_bytes": free, "disk_needed_bytes": most, "checks": checks,
    }  # fmt: skip
    durable.write_json(run.paths.state / "system.json", facts)
    for check in checks:
        if check["level"] == "fail":
            raise RuntimeError(f"{check['name']}: found {check['found']}, needed {check['needed']}; {check['advice']}")
        if check["level"] == "warn":
            run.tell(f"{check['name']}: {check['found']} is tight; {check['advice']}", "warning")
    return Outcome([run.paths.state / "system.json"], facts, identity={"memory_bytes": memory.total})


def check_device(run: Run) -> Outcome:
    accelerator.forgive(run)
    facts = accelerator.on_device(
        run, "environment.device", lambda asked: run.worker.call("nanogpt.device:prove", asked=asked, timeout=PATIENCE),
        proved=run.config.device.type,
    )  # fmt: skip
    if reason := accelerator.reason_given_up(run):
        asked = run.config.device.type
        facts |= {"asked": asked, "warning": f"{reason}; taking the CPU"}
        facts["candidates"].insert(0, {"device": asked, "works": False, "error": reason, "max_relative_error": None})
    if facts["warning"]:
        run.tell(facts["warning"], "warning")
    report = run.paths.state / "system_report.md"
    documents.render_system_report({"environment.system": run.facts("environment.system"),
                                    "environment.device": facts}, report)  # fmt: skip
    return Outcome([report], facts, identity={"device": facts["device"]})


def freeze_packages(run: Run) -> Outcome:
    packages = _packages()
    file = run.paths.state / "requirements.txt"
    lines = [f"{name}=={packages[name]}\n" for name in sorted(packages, key=str.lower)]
    durable.write_text(file, "".join(line for line in lines if not line.startswith("nanogpt-autopilot==")))
    return Outcome([file], {"count": len(packages), "packages": packages, "file": run.relative(file)}, identity={})


def disk_needed(run: Run) -> list[int]:
    """Bytes that each model of the ladder and its checkpoints would take, with 1 GiB for the rest."""
    return [demands.disk_needed(demands.with_vocabulary(rung)) + GIB for rung in run.options.rungs]


def machine() -> dict:
    """What a proof of this machine holds for: another processor or another torch is to be proved anew."""
    return {"processor": processor_name(), "torch": version("torch")}


def _packages() -> dict[str, str]:
    return {package.metadata["Name"]: package.version for package in distributions() if package.metadata["Name"]}


def _check(name: str, found: str, needed: str, enough: bool, ample: bool, advice: str) -> dict:
    level = "fail" if not enough else "ok" if ample else "warn"
    return {"name": name, "level": level, "found": found, "needed": needed, "advice": "" if level == "ok" else advice}


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


def _system_settings(run: Run) -> dict:
    return {"workspace": str(run.paths.workspace), "ladder": [rung.name for rung in run.options.rungs],
            "disk_needed_bytes": max(disk_needed(run)), "processor": processor_name()}  # fmt: skip


THIS = "flows.phases.environment"
FOLDERS = Step("environment.folders", "Make the folders", make_folders, code=("flows.runner.run",))
SYSTEM = Step("environment.system", "Check Python, memory, disk and cores", check_system, _system_settings,
              needs=("environment.folders",), code=(THIS,))  # fmt: skip
DEVICE = Step("environment.device", "Prove the device against the CPU", check_device,
              lambda run: {"device": {"type": run.config.device.type}, **machine()}, needs=("environment.system",),
              code=(THIS, "nanogpt.device"))  # fmt: skip
PACKAGES = Step("environment.packages", "Freeze the exact packages", freeze_packages,
                lambda run: {"packages": _packages()}, needs=("environment.folders",), code=(THIS,))  # fmt: skip
STEPS = [FOLDERS, PACKAGES, SYSTEM, DEVICE]
