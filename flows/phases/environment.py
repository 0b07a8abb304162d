"""Phase 1: folders, machine, device and packages - what there is, and whether it is enough."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import sys
from dataclasses import replace
from importlib.metadata import version
from typing import Literal

import psutil

from flows.context.provenance import installed_packages
from flows.ledger.facts import DEVICE, FOLDERS, PACKAGES, SYSTEM, Folders, Packages, System, SystemCheck
from flows.ledger.steps import Json, StepResult
from flows.machine import disk
from flows.planning import texts
from flows.planning.footprint import disk_needed_by_run, with_vocabulary
from flows.runner.run import AnyStep, Phase, Run, Step
from nanogpt import durable
from nanogpt.machine import cores, physical_cores, processor_name
from nanogpt.records import to_json
from nanogpt.results.machine import DeviceCandidate, DeviceProof
from nanogpt.units import GIB, byte_size

PATIENCE = 120.0  # seconds, for a proof of five: a device that hangs
LEAST_MEMORY = 2 * GIB  # the smallest trainer peaks at 0.43 GiB, Prefect's server holds 0.2; the rest is the system's


def environment(run: Run) -> None:
    if not run.would_keep(DEVICE):
        run.worker.start("nanogpt.device")  # torch: 1.4 s
    run.do(FOLDERS)
    packages = run.start_in_background(PACKAGES)
    system, device = run.do(SYSTEM), run.do(DEVICE)
    packages()
    run.milestone(
        "environment",
        f"environment: {device.device}, {device.name}",
        f"{system.cores} cores, {byte_size(system.memory_bytes)} of memory, {byte_size(system.disk_free_bytes)} free.",
        [run.paths.state / name for name in ("system.json", "system_report.md", "requirements.txt")],
    )


def make_folders(run: Run) -> StepResult[Folders]:
    for folder in run.paths.folders():
        folder.mkdir(parents=True, exist_ok=True)
    return StepResult(Folders([run.paths.relative(folder) for folder in run.paths.folders()]))


def check_system(run: Run) -> StepResult[System]:
    memory = psutil.virtual_memory()
    file = run.paths.state / "system.json"
    free = shutil.disk_usage(run.paths.workspace).free
    if free < disk.LEAST:  # it may be full for now only: waited for, as in every step
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
    least, most = disk_needed(run, texts.expected_bytes(run.config.data))
    enough_memory, enough_disk = memory.total >= LEAST_MEMORY, free >= least
    checks = [
        _check("Python", platform.python_version(), "3.11 or newer", sys.version_info >= (3, 11), True,
               "install a newer Python"),
        _check("memory", byte_size(memory.total), f"{byte_size(LEAST_MEMORY)} at least", enough_memory,
               memory.available >= LEAST_MEMORY, f"{byte_size(memory.available)} are free: close other programs"),
        _check("disk", byte_size(free), f"{byte_size(least)}, {byte_size(most)} with the largest model",
               enough_disk, free >= most,
               f"the largest model may need {byte_size(most - free)} more: free it, or choose another --workspace"),
        _check("processor cores", str(cores()), "2 or more", True, cores() >= 2, "training will take longer"),
    ]  # fmt: skip
    facts = System(
        python=platform.python_version(),
        platform=platform.platform(),
        processor=processor_name(),
        cores=cores(),
        physical_cores=physical_cores(),
        memory_bytes=memory.total,
        memory_available_bytes=memory.available,
        disk_free_bytes=free,
        disk_needed_bytes=most,
        checks=checks,
    )
    durable.write_json(file, to_json(facts))
    for check in checks:
        if check.level == "fail":
            raise RuntimeError(f"{check.name}: found {check.found}, needed {check.needed}; {check.advice}")
        if check.level == "warn":
            run.journal.message(f"{check.name}: {check.found} is tight; {check.advice}", "warning")
    return StepResult(facts, [file], identity={"memory_bytes": memory.total})


def check_device(run: Run) -> StepResult[DeviceProof]:
    run.accelerator.forgive()
    asked = run.config.device.type

    def prove(device: str) -> DeviceProof:
        proof: DeviceProof = run.worker.call("nanogpt.device:prove", asked=device, timeout=PATIENCE)
        return proof

    facts = run.accelerator.run_on(asked, DEVICE.step, prove)
    if reason := run.accelerator.reason_given_up():
        gone = DeviceCandidate(asked, works=False, error=reason, max_relative_error=None)
        facts = replace(facts, asked=asked, warning=f"{reason}; taking the CPU", candidates=[gone, *facts.candidates])
    if facts.warning:
        run.journal.message(facts.warning, "warning")
    from flows.report import documents  # jinja2 and markdown-it: 50 ms of a start

    report = run.paths.state / "system_report.md"
    documents.render_system_report(run.facts(SYSTEM), facts, report)
    return StepResult(facts, [report], identity={"device": facts.device})


def freeze_packages(run: Run) -> StepResult[Packages]:
    packages = installed_packages()
    file = run.paths.state / "requirements.txt"
    lines = [f"{name}=={packages[name]}\n" for name in sorted(packages, key=str.lower)]
    durable.write_text(file, "".join(line for line in lines if not line.startswith("nanogpt-autopilot==")))
    return StepResult(Packages(len(packages), packages, run.paths.relative(file)), [file], identity={})


def disk_needed(run: Run, text_bytes: int) -> tuple[int, int]:
    """Bytes that a run writes: with the smallest candidate alone, and with that and the largest, as plans have them."""
    models = [with_vocabulary(config) for config in run.options.candidates]
    first, others = models[:1], models[1:]
    return disk_needed_by_run(first, text_bytes), disk_needed_by_run([*first, *others[-1:]], text_bytes)


def _check(name: str, found: str, needed: str, enough: bool, ample: bool, advice: str) -> SystemCheck:
    level: Literal["ok", "warn", "fail"] = "fail" if not enough else "ok" if ample else "warn"
    return SystemCheck(name, level, found, needed, "" if level == "ok" else advice)


def _system_settings(run: Run) -> Json:
    return {
        "workspace": str(run.paths.workspace),
        "ladder": run.options.candidate_names,
        "disk_needed_bytes": max(disk_needed(run, text_bytes=0)),
        "processor": processor_name(),
    }


def _device_settings(run: Run) -> Json:
    """A proof holds for this machine: another processor or another torch is to be proved anew."""
    asked = run.config.device.type
    return {"device": {"type": asked}, "processor": processor_name(), "torch": version("torch")}


STEPS: list[AnyStep] = [
    Step(
        key=FOLDERS,
        title="Make the folders",
        work=make_folders,
        code=("flows/phases/environment.py", "flows/context/paths.py"),
    ),
    Step(
        key=PACKAGES,
        title="Record the exact packages",
        work=freeze_packages,
        settings=lambda run: {"packages": installed_packages()},
        needs=("environment.folders",),
        code=("flows/phases/environment.py",),
    ),
    Step(
        key=SYSTEM,
        title="Check Python, memory, disk and cores",
        work=check_system,
        settings=_system_settings,
        needs=("environment.folders",),
        code=(
            "flows/phases/environment.py",
            "flows/planning/footprint.py",
            "nanogpt/measure/sizes.py",
            "nanogpt/tokenizers/vocabulary.py",
        ),
    ),
    Step(
        key=DEVICE,
        title="Check the device against the CPU",
        work=check_device,
        settings=_device_settings,
        needs=("environment.system",),
        code=(
            "flows/phases/environment.py",
            "nanogpt/device.py",
            "flows/report/documents.py",
            "flows/report/markdown.py",
            "nanogpt/markdown.py",
            "templates/system_report.md.j2",
        ),
    ),
]
PHASE = Phase("environment", environment, lambda wanted: STEPS)
