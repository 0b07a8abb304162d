"""Functions that flows names by text for a worker ("nanogpt.device:prove"): the type checker cannot see them."""

import ast
import importlib
import inspect

import pytest

from tests.sources import WORK, modules

pytestmark = pytest.mark.fast
CALLS = [
    (text.value, call)
    for module in modules(("flows",)).values()
    for call in ast.walk(module.tree)
    if isinstance(call, ast.Call)
    for text in call.args
    if isinstance(text, ast.Constant) and isinstance(text.value, str) and WORK.fullmatch(text.value)
]


def test_no_function_is_named_elsewhere_than_in_a_call():
    constants = [node.value for module in modules(("flows",)).values() for node in ast.walk(module.tree)
                 if isinstance(node, ast.Constant) and isinstance(node.value, str)]  # fmt: skip
    assert len(CALLS) >= 5
    assert sorted(filter(WORK.fullmatch, constants)) == sorted(target for target, _ in CALLS)


@pytest.mark.parametrize("target, call", CALLS, ids=[target for target, _ in CALLS])
def test_a_worker_is_given_what_the_function_takes(target, call):
    names = {keyword.arg for keyword in call.keywords}
    assert None not in names, "**arguments cannot be checked here"
    if ast.unparse(call.func) == "_on_device":  # flows.phases.evaluation: it adds the device and the time
        names.add("device")
    names.discard("timeout")  # the worker's own
    module, name = WORK.fullmatch(target).groups()
    inspect.signature(getattr(importlib.import_module(module), name)).bind(**dict.fromkeys(names))
