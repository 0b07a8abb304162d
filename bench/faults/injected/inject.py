"""Which faults are this process's, and where in the product they strike. The words of a fault: sitecustomize.py."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial, reduce, wraps
from types import ModuleType
from typing import Any

import inflict
from fault import NOW, Fault

EVERYWHERE = ("pretend", "compiler")
# What faults strike at in the product: a module's function, or a class's method. tests/test_campaign.py looks for them.
TRAINER = ("nanogpt.training.trainer", "Trainer")
BEFORE = {
    "setting up": ("nanogpt.training.trainer", "build"),
    "step": (*TRAINER, "step"),
    "evaluation": (*TRAINER, "evaluate"),
    "sample": (*TRAINER, "write_sample"),
    "saving": ("nanogpt.training.saving", "Saver", "write"),
}
UPDATE = ("nanogpt.training.update.optimizer", "Optimizer", "step")  # "update": behind it
GRADIENTS = ("nanogpt.training.update.optimizer", "Optimizer", "gradient_norm")  # "gradients": before it
WORKER = ("nanogpt.process.worker", "invoke")  # "call": before it

Method = Callable[..., Any]


def arm(text: str) -> None:
    """Prepare the faults in `text`, JSON, that name this process."""
    found = json.loads(text)
    faults = [Fault(words) for words in (found if isinstance(found, list) else [found])]
    mine = [fault for fault in faults if fault.is_of(this_process())]
    hooks = Hooks()
    for fault in mine:
        if fault.what == "replace":
            hooks[fault.words["module"]].append(fault.replace)
    of = [fault for fault in mine if fault.what != "replace"]
    if any(fault.what in EVERYWHERE or fault.operator for fault in of):
        hooks["torch"].append(lambda torch: _arm_torch(torch, of))
    if any(fault.what not in EVERYWHERE for fault in of):
        for at, place in BEFORE.items():
            hooks.wrap(place, partial(_before, faults=of, at=at))
        hooks.wrap(UPDATE, partial(_behind_update, faults=of))
        hooks.wrap(GRADIENTS, partial(_poisoned, poisons=[fault for fault in of if fault.what == "gradients"]))
        hooks.wrap(WORKER, partial(_before_call, faults=of))
    if hooks:
        sys.meta_path.insert(0, hooks)
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


def _arm_torch(torch: ModuleType, faults: list[Fault]) -> None:
    for fault in faults:
        if fault.what == "pretend":
            import pretended_device  # needs torch, which has just been imported

            pretended_device.appear(fault.words["device"], fault.words.get("bytes"))
        elif fault.what == "compiler":
            inflict.break_compiler(torch)
    at_operators = [fault for fault in faults if fault.operator]
    if at_operators:
        import operators  # needs torch, too

        operators.watch(at_operators)


def _before(method: Method, faults: Sequence[Fault], at: str) -> Method:
    @wraps(method)
    def wrapped(part: Any, *args: Any, **kwargs: Any) -> Any:
        _look_at(part, at)
        _strike(faults, at)
        return method(part, *args, **kwargs)

    return wrapped


def _look_at(part: Any, at: str) -> None:
    """`part` is the job while nothing is built, then the trainer or one of its parts, which has what it has."""
    if at == "setting up":
        NOW.model, NOW.device = part.folder.name, None
        return
    NOW.step = part.state.progress.step + (at == "step")
    NOW.micro_batch = getattr(part, "stepper", part).micro_batches.size  # the trainer may halve it
    NOW.model, NOW.device = part.job.folder.name, part.numerics.device


def _behind_update(method: Method, faults: Sequence[Fault]) -> Method:
    @wraps(method)
    def updated(*args: Any, **kwargs: Any) -> None:
        method(*args, **kwargs)
        _strike(faults, "update")

    return updated


def _poisoned(method: Method, poisons: Sequence[Fault]) -> Method:
    for fault in poisons:
        fault.at = "gradients"

    @wraps(method)
    def poisoned(optimizer: Any) -> Any:
        for fault in poisons:
            if fault.strikes("gradients"):
                factor = float(fault.words.get("value", "nan"))
                for parameter in optimizer.parameters:
                    parameter.grad.mul_(factor) if factor == factor else parameter.grad.fill_(factor)
        return method(optimizer)

    return poisoned


def _before_call(invoke: Method, faults: Sequence[Fault]) -> Method:
    """The device "auto" is whichever the fault names."""
    named = next((fault.words["device"] for fault in faults if "device" in fault.words), None)

    @wraps(invoke)
    def invoked(target: str, arguments: dict[str, Any]) -> Any:
        device = arguments.get("device", arguments.get("asked"))
        NOW.target, NOW.device = target, named if device == "auto" else device
        _strike(faults, "call")
        return invoke(target, arguments)

    return invoked


def _strike(faults: Sequence[Fault], at: str) -> None:
    for fault in faults:
        if fault.what not in (*EVERYWHERE, "gradients", "wrong") and fault.strikes(at):
            inflict.inflict(fault.words)


class Hooks(dict[str, list[Callable[[ModuleType], None]]], importlib.abc.MetaPathFinder):
    """{module name: [callback(module), ...]}, called once when the module has been executed."""

    def __missing__(self, name: str) -> list[Callable[[ModuleType], None]]:
        return self.setdefault(name, [])

    def wrap(self, place: tuple[str, ...], wrapper: Callable[[Method], Method]) -> None:
        """Replace a function or method. One that is gone is an AttributeError: the campaign has to know."""
        module, *owners, name = place

        def replace(imported: ModuleType) -> None:
            owner = reduce(getattr, owners, imported)
            setattr(owner, name, wrapper(getattr(owner, name)))

        self[module].append(replace)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self:
            return None
        callbacks = self.pop(name)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def executed(module: ModuleType) -> None:
            execute(module)
            for callback in callbacks:
                callback(module)

        spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec
