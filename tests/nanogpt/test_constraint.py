"""Text keeps to a regular expression or a JSON schema, whatever the model would rather write."""

import json
import math
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.faults import UserError
from nanogpt.inference.batch import Batch
from nanogpt.inference.constraint import check_numbers
from nanogpt.inference.engine import Engine
from nanogpt.inference.options import Options
from nanogpt.tokenizers.byte_pairs import BPETokenizer
from nanogpt.tokenizers.characters import CharTokenizer

from .model_case import randomised, small

pytestmark = pytest.mark.fast
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["a", "ab"]}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=["characters", "byte pairs"])
def engine(request) -> Engine:
    """Of a model that knows more tokens than its tokenizer."""
    tokenizer = CharTokenizer('abcdefgmn0123456789{}[]":, é')
    if request.param == "byte pairs":
        tokenizer = BPETokenizer.train('{"name": "ab", "age": 12} ' * 5, 270)
    pytest.importorskip("llguidance")
    return Engine.of_model(randomised(small(block_size=32, vocab_size=tokenizer.vocab_size + 3)), tokenizer)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 99), temperature=st.sampled_from([0.0, 1.0, 5.0]))
def test_a_text_is_what_it_is_constrained_to(engine, seed, temperature):
    options = dict(seed=seed, temperature=temperature, max_new_tokens=100)
    assert re.fullmatch("[ab]{3,9}é", engine.complete("a", pattern="[ab]{3,9}é", **options))
    value = json.loads(engine.complete("{", json_schema=SCHEMA, **options))
    assert value["name"] in ("a", "ab") and 0 <= value["age"] <= 99


def test_in_a_batch_each_text_keeps_to_its_own(engine):
    batch = Batch(engine)
    wanted = {"[ab]{5}": 5, "[0-9]{7}": 7}
    began = {pattern: batch.add("a", Options(pattern=pattern, seed=1))[0] for pattern in wanted}
    (free,) = batch.add("a", Options(max_new_tokens=10, seed=1))
    texts = dict.fromkeys([*began.values(), free], "")
    while batch:
        for writing, piece in batch.step():
            texts[writing] += piece.text
    for pattern, writing in began.items():
        assert re.fullmatch(pattern, texts[writing]) and writing.finish == "stop"
    assert texts[free] == engine.complete("a", max_new_tokens=10, seed=1)


def test_biases_decide_only_between_what_is_allowed(engine):
    ids = {letter: int(engine.tokenizer.encode(letter)[0]) for letter in "abc"}
    liked = {ids["c"]: 100.0, ids["b"]: 50.0}
    assert engine.complete("a", pattern="[ab]", logit_bias=liked, temperature=0) == "b"
    banned = {ids["a"]: -float("inf"), ids["b"]: -float("inf")}
    assert engine.complete("a", pattern="[ab]x?|[ab]", logit_bias=banned, temperature=0)[0] in "ab"


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(pattern="("), "pattern: "),
        (dict(pattern="a\udcff"), "pattern: its character 2 is not text"),
        (dict(json_schema={"type": "nonsense"}), "json_schema: .*nonsense"),
        (dict(pattern="a", json_schema={}), "one of the two"),
        (dict(pattern="a", beams=2), "beams: found 2"),
    ],
)
def test_a_mistake_is_named_before_a_token_is_written(engine, options, message):
    with pytest.raises(UserError, match=message) as caught:
        engine.generate("a", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "schema, message",
    [
        ({"const": -(2**63)}, "const: found -9223372036854775808, should be above"),  # ended the process by SIGSEGV
        ({"items": {"enum": ["a", [-(2**63) + 1]]}}, "enum: found -9223372036854775807, should be above"),
        ({"properties": {"a": {"multipleOf": 2**31}}}, "multipleOf: found 2147483648, should be smaller"),  # gigabytes
        ({"multipleOf": 1e300}, "multipleOf: found 1E[+]300, should be smaller"),
        ({"allOf": [{"multipleOf": 999}, {"multipleOf": 1001}]}, "multipleOf: found 1001 and 999, should be"),  # 19 s
        ({"multipleOf": 0.01, "anyOf": [{"multipleOf": 700}]}, "multipleOf: found 700 and 0.01, should be"),
    ],
)
def test_numbers_that_would_take_the_process_are_refused(schema, message):
    with pytest.raises(UserError, match=f"^json_schema: {message}"):
        check_numbers(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"minimum": 1, "maximum": 2**63 - 1, "x": True}, {"enum": [10**400, -(10**400), 1e308, -1e308, math.nan]},
        {"properties": {"a": {"multipleOf": 0.01}, "b": {"multipleOf": 7}, "c": {"multipleOf": 10_000}}},
        {"allOf": [{"multipleOf": 0.5}, {"multipleOf": 3}]}, {"multipleOf": 0}, {"multipleOf": "a"},
    ],
)  # fmt: skip
def test_other_numbers_are_left_to_who_reads_the_schema(schema):
    check_numbers(schema)


def test_what_the_vocabulary_cannot_write_is_named():
    pytest.importorskip("llguidance")
    tokenizer = CharTokenizer("abc")
    engine = Engine.of_model(randomised(small(vocab_size=tokenizer.vocab_size)), tokenizer)
    with pytest.raises(UserError, match="no token of the model's vocabulary"):
        engine.generate("a", pattern="x+")
    with pytest.raises(UserError, match="no token of the model's vocabulary"):
        engine.complete("a", pattern="abx")
    assert engine.complete("a", pattern="(ab|xc)c") == "abc"


def test_without_the_package_the_message_says_what_installs_it(engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UserError, match="pip install llguidance"):
        engine.generate("a", pattern="a")
