"""Which faults are this process's, and where in the product they strike. The words of a fault: sitecustomize.py."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import sys
from collections.abc import Callable
from functools import wraps

EVERYWHERE = ("pretend", "compiler")
NOW = {"step": 0, "micro_batch": 0, "model": "", "target": "", "device": None}  # where the victim is


def arm(text: str) -> None:
    """Prepare the faults in `text`, JSON, that name this process."""
    found = json.loads(text)
    mine = [Fault(words) for words in (found if isinstance(found, list) else [found])]
    mine = [fault for fault in mine if fault.is_of(this_process())]
    when_imported = Hooks()
    for fault in mine:
        if fault.what == "replace":
            when_imported[fault.words["module"]].append(fault.replace)
    of = [fault for fault in mine if fault.what != "replace"]
    if any(fault.what in EVERYWHERE or fault.operator for fault in of):
        when_imported["torch"].append(lambda torch: _arm_torch(torch, of))
    if any(fault.what not in EVERYWHERE for fault in of):
        when_imported["nanogpt.training.trainer"].append(lambda module: _arm_trainer(module, of))
        when_imported["nanogpt.training.saving"].append(lambda module: _before(of, module.Saver, "write", "saving"))
        when_imported["nanogpt.training.update.optimizer"].append(lambda module: _arm_gradients(module, of))
        when_imported["flows.machine.worker"].append(lambda module: _arm_worker(module, of))
    if when_imported:
        sys.meta_path.insert(0, when_imported)
    _strike(of, "start")


def this_process() -> str:
    """By its command line: "trainer", "worker", "autopilot", "server" or "other"."""
    command = " ".join(sys.orig_argv)
    if "nanogpt.cli train" in command or "nanogpt train" in command:
        return "trainer"
    if "multiprocessing" in command:
        return "worker"
    if "flows.full_run" in command:
        return "autopilot"
    return "server" if "prefect" in command or "uvicorn" in command else "other"


class Fault:
    """One fault: whether it strikes now, and how often it has."""

    def __init__(self, words: dict):
        self.words, self.what = words, words["what"]
        self.operator = words.get("operator", "").replace("aten::", "")
        self.at = "operator" if self.operator else words.get("at", "step")
        self.passed = self.struck = 0

    def is_of(self, process: str) -> bool:
        usual = {"pretend": "any", "compiler": "any", "replace": "autopilot"}.get(self.what, "trainer")
        named = self.words.get("process", usual)
        return named == "any" or process in ([named] if isinstance(named, str) else named)

    def strikes(self, at: str, device: Callable[[], str | None] = lambda: NOW["device"]) -> bool:
        """Whether all that the fault names is true at this place; counts it when so."""
        if self.at != at or not self._matches() or self.words.get("device") not in (None, device()):
            return False
        self.passed += 1
        if self.passed <= self.words.get("skip", 0):
            return False
        times = self.words.get("times", 1)
        if times is not None and self.count() >= times:
            return False
        self._count_one()
        return True

    def count(self) -> int:
        """How often it has struck."""
        counter = self.words.get("counter")
        if counter is None:
            return self.struck
        return os.path.getsize(counter) if os.path.exists(counter) else 0

    def _count_one(self) -> None:
        self.struck += 1
        if counter := self.words.get("counter"):
            descriptor = os.open(counter, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, b"x")
            os.fsync(descriptor)
            os.close(descriptor)

    def _matches(self) -> bool:
        words, step = self.words, self.words.get("step")
        return (
            (step is None or NOW["step"] in ([step] if isinstance(step, int) else step))
            and NOW["step"] >= words.get("from_step", 0)
            and (words.get("micro_batch_above") is None or NOW["micro_batch"] > words["micro_batch_above"])
            and words.get("model") in (None, NOW["model"])
            and words.get("target") in (None, NOW["target"])
        )

    def replace(self, module) -> None:
        name = self.words["name"]
        if not hasattr(module, name):
            raise AttributeError(f"FAULT: {module.__name__} has no {name} any more")
        setattr(module, name, self.words["value"])


def _arm_torch(torch, faults: list[Fault]) -> None:
    import inflict

    for fault in faults:
        if fault.what == "pretend":
            import pretended_device

            pretended_device.appear(fault.words["device"], fault.words.get("bytes"))
        elif fault.what == "compiler":
            inflict.break_compiler(torch)
    at_operators = [fault for fault in faults if fault.operator]
    if at_operators:
        import operators

        operators.watch(at_operators)


def _arm_trainer(module, faults: list[Fault]) -> None:
    """The moments of a training."""
    build = module.build

    @wraps(build)
    def built(job, *rest):
        NOW["model"], NOW["device"] = job.folder.name, None
        _strike(faults, "setting up")
        return build(job, *rest)

    module.build = built
    _before(faults, module.Trainer, "step", "step", ahead=1)
    _before(faults, module.Trainer, "evaluate", "evaluation")
    _before(faults, module.Trainer, "write_sample", "sample")


def _before(faults: list[Fault], part: type, method: str, at: str, ahead: int = 0) -> None:
    """Strike before `method`. One that is gone is an AttributeError: the campaign must notice."""
    original = getattr(part, method)

    @wraps(original)
    def wrapped(self, *args, **kwargs):
        _look_at(self, ahead)
        _strike(faults, at)
        return original(self, *args, **kwargs)

    setattr(part, method, wrapped)


def _look_at(part, ahead: int) -> None:
    """`part` is the trainer, or one that has state, job, numerics and micro-batches as it has."""
    NOW["step"] = part.state.progress.step + ahead
    NOW["micro_batch"] = getattr(part, "stepper", part).micro_batches.size  # the trainer may halve it
    NOW["model"], NOW["device"] = part.job.folder.name, part.numerics.device


def _arm_gradients(module, faults: list[Fault]) -> None:
    """The gradients of a step, and the moment after its update."""
    update = module.Optimizer.step

    @wraps(update)
    def updated(self, *args, **kwargs):
        update(self, *args, **kwargs)
        _strike(faults, "update")

    module.Optimizer.step = updated
    poisons = [fault for fault in faults if fault.what == "gradients"]
    if not poisons:
        return
    for fault in poisons:
        fault.at = "gradients"
    optimizer = module.Optimizer
    original = optimizer.gradient_norm

    @wraps(original)
    def poisoned(self):
        for fault in poisons:
            if fault.strikes("gradients"):
                value = fault.words.get("value", "nan")
                factor = float(value)
                for parameter in self.parameters:
                    parameter.grad.mul_(factor) if factor == factor else parameter.grad.fill_(factor)
        return original(self)

    optimizer.gradient_norm = poisoned


def _arm_worker(module, faults: list[Fault]) -> None:
    """The function that a worker is asked for. On the device "auto" is on whichever the fault names."""
    original = module._invoke
    named = next((fault.words["device"] for fault in faults if "device" in fault.words), None)

    @wraps(original)
    def invoked(target, arguments):
        device = arguments.get("device", arguments.get("asked"))
        NOW["target"], NOW["device"] = target, named if device == "auto" else device
        _strike(faults, "call")
        return original(target, arguments)

    module._invoke = invoked


def _strike(faults: list[Fault], at: str) -> None:
    for fault in faults:
        if fault.what not in (*EVERYWHERE, "gradients", "wrong") and fault.strikes(at):
            import inflict

            inflict.inflict(fault.words)


class Hooks(dict, importlib.abc.MetaPathFinder):
    """{module name: [callback(module), ...]}, called once when the module has been executed."""

    def __missing__(self, name: str) -> list:
        return self.setdefault(name, [])

    def find_spec(self, name, path=None, target=None):
        if name not in self:
            return None
        callbacks = self.pop(name)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def executed(module) -> None:
            execute(module)
            for callback in callbacks:
                callback(module)

        spec.loader.exec_module = executed
        return spec
