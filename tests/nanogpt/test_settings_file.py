"""YAML without surprises: what is read is what the words say, what is written comes back, harm is one line."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.faults import UserError
from nanogpt.settings_file import LARGEST, as_yaml, parse, read_yaml
from tests.not_a_file import each_kind

pytestmark = pytest.mark.fast

READ = {
    "12": 12, "-3": -3, "+4": 4, "0": 0, "1_000": 1000, "1e4": 1e4, "3E-4": 3e-4, ".5": 0.5, "0.05": 0.05, "5.": 5.0,
    "0e3": 0.0, ".inf": float("inf"), "true": True, "False": False, "null": None, "~": None, "": None,
    "yes": "yes", "no": "no", "on": "on", "OFF": "OFF", "y": "y", "1:30": "1:30", "2026-01-31": "2026-01-31",
    "0x1F": "0x1F", "0b11": "0b11", "'010'": "010", "[0.6, 1]": [0.6, 1], "<<": "<<",
}  # fmt: skip


@pytest.mark.parametrize("text, value", READ.items())
def test_a_value_is_what_it_looks_like(text, value):
    found = parse(text, "here")
    assert found == value and type(found) is type(value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
TRICKY = st.sampled_from(["1e4", "010", "no", "on", "1:30", "2026-01-31", "~", "", "<<", "=", "0x1F", "1_000", ".inf"])


@given(st.dictionaries(st.text() | TRICKY, VALUES | TRICKY))
def test_what_is_written_is_read_back_equal(values):
    assert parse(as_yaml(values), "here") == values


@given(st.text() | st.text(alphabet="[]{}:,-?&*!|>'\"%@` \n#a0<.~"))
def test_any_text_is_a_value_or_one_line(text):
    try:
        parse(text, "here")
    except UserError as error:
        assert str(error).startswith("here") and "\n" not in str(error)


REFUSED = {
    "octal": ("a: 010", "line 1: found 010, octal to some readers; write 10, or '010' for text"),
    "negative octal": ("a: -07", "found -07"),
    "a key twice": ("a:\n  b: 1\n  c: 2\n  b: 3\n", 'line 4: the key "b" is in line 2 already'),
    "a section twice": ("a: {}\nb: 1\na: {}\n", 'line 3: the key "a" is in line 1 already'),
    "deep": ("a: " + "[" * 100_000, "nested too deeply"),
    "deep mappings": ("{a: " * 20_000, "nested too deeply"),
    "a reference": ("a: &x 1\nb: *x\n", "line 2: references such as *name are not read"),
    "code": ("a: !!python/object/apply:os.system [touch harmed]", "line 1 is not valid YAML"),
    "thousands of digits": ("a: " + "9" * 5000, "is not valid YAML"),
    "not closed": ("a: [1", "is not valid YAML"),
    "a key that is a list": ("? [a]\n: 1", "line 1 is not valid YAML"),
}  # fmt: skip


@pytest.mark.parametrize("text, words", REFUSED.values(), ids=REFUSED)
def test_what_is_ambiguous_or_harmful_is_one_line(text, words):
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        parse(text, "here", is_file=True)
    assert words in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 300
    assert time.monotonic() - began < 10


def test_files_that_are_none_of_settings_are_one_line(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a: 1\n" * LARGEST)
    for content, words in (
        (b"a: 1\n" * LARGEST, "more than 65,536 bytes"), (b"\xff\xfea", "not a text file"), (b"", "expected sections"),
        (b"- a", "expected sections such as 'model:', found list"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(UserError, match=words):
            read_yaml(path)
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(path) == {"a": 1}, "Windows begins a file with a mark"


@each_kind
def test_what_is_no_file_is_one_line_at_once(tmp_path, put):
    put(tmp_path / "a.yaml")
    with pytest.raises(UserError, match=r"a\.yaml: cannot be read \(.+\)$"):
        read_yaml(tmp_path / "a.yaml")


def test_the_bare_name_of_a_shipped_model_is_answered_with_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/micro.yaml").write_text("{}")
    with pytest.raises(UserError, match=r'micro: cannot be read \(.+\) \(did you mean "configs/micro\.yaml"\?\)$'):
        read_yaml(Path("micro"))
    with pytest.raises(UserError, match=r"large: cannot be read \(.+\)$"):
        read_yaml(Path("large"))
