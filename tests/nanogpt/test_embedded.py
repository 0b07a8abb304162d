"""The embedded corpus: all documentation of a machine, each text once, in an order that more bytes only go on."""

import ast
import hashlib
import inspect
import json
import re
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.sources import documentation, embedded, own_pieces, reading
from nanogpt.sources.documentation import Origin, Written
from nanogpt.sources.manual_pages import text_of

PYTHON, OTHER = Origin("Python 3", "PSF-2.0"), Origin("other 1", "MIT")


def test_this_projects_own_environment_has_ten_megabytes_and_more_in_seconds():
    """Without any manual; prose alone, and a licence for nearly each package."""
    texts = [*documentation.of_python(), *documentation.of_packages()]
    distinct = {hashlib.sha256(written.text.encode()).digest(): written for written in texts}.values()
    assert sum(len(written.text) for written in distinct) > 10_000_000
    assert sum(written.text.count(" the ") for written in distinct) > 50_000
    origins = {written.origin for written in distinct}
    assert len({origin.name for origin in origins}) > 100
    assert sum(origin.licence == "not stated" for origin in origins) < len(origins) / 10


@given(st.lists(st.text("abc", min_size=1, max_size=30)), st.integers(0, 200), st.integers(0, 200))
@settings(max_examples=50, deadline=None)
def test_each_text_once_as_many_as_are_wanted_and_more_only_go_on(texts, fewer, more):
    def taken(size):
        return [written.text for written in embedded.drawn((Written(text, "", OTHER) for text in texts), size)]

    first, second = taken(min(fewer, more)), taken(max(fewer, more))
    assert second[: len(first)] == first and len(second) == len(set(second))
    enough = sum(map(len, first)) >= min(fewer, more)
    assert enough or set(first) == set(texts)
    assert not first or sum(map(len, first[:-1])) < min(fewer, more), "no more than that"
    assert taken(10**6) == sorted(set(texts), key=lambda text: hashlib.sha256(text.encode()).digest())


def test_it_is_gathered_once_for_one_environment_and_damage_is_noticed(tmp_path, monkeypatch):
    texts = [Written(f"text {number} é", f"a/{number}", PYTHON if number % 3 else OTHER) for number in range(9)]
    gathered = []
    monkeypatch.setattr(documentation, "all_texts", lambda: (gathered.append(1), iter([*texts, *texts]))[1])
    path = embedded.write_embedded(tmp_path, embedded.EVERYTHING)
    before = path.read_bytes()
    assert embedded.write_embedded(tmp_path, embedded.EVERYTHING) == path and len(gathered) == 1
    [piece] = own_pieces.pieces_of_file(path, "embedded")
    found = [document.text for document in reading.read(piece)]
    assert sorted(found) == sorted(written.text for written in texts)
    shares = json.loads((tmp_path / embedded.LICENCES).read_text())["sources"]
    assert [(row["name"], row["licence"], row["documents"]) for row in shares] == [
        ("Python 3", "PSF-2.0", 6),
        ("other 1", "MIT", 3),
    ]
    path.write_bytes(before[:-1])
    assert embedded.write_embedded(tmp_path, embedded.EVERYTHING).read_bytes() == before and len(gathered) == 2


@pytest.mark.parametrize("module", ["argparse", "inspect", "typing", "threading"])
def test_docstrings_are_nearly_those_that_parsing_finds(module):
    source = Path(sysconfig.get_path("stdlib"), f"{module}.py").read_text(encoding="utf-8")
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    parsed = {ast.get_docstring(node) or "" for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)}
    parsed = {plain(text) for text in parsed if len(text) >= 90}
    found = plain(documentation.docstrings(source))
    assert sum(text in found for text in parsed) >= 0.9 * len(parsed) > 0
    assert len(found) < 1.2 * sum(map(len, parsed)) + 80 * source.count('"""')
    assert documentation.docstrings('"""' + r"Escaped \\ and \xe9. " * 20 + '"""\nx = 1').count("\\ and é") == 20


def plain(text):
    return re.sub(r"\s+", " ", inspect.cleandoc(text))


MAN = r""".\" a comment
.TH CP 1 "today"
.de Vb
not shown
..
.SH NAME
cp \- copy \fIfiles\fR
.SH DESCRIPTION
Copies
.B SOURCE
to
.BR DEST ( 1 ),
or \(lqmany\(rq \(em \[u00E9]\[bu].
.ie n \{\
hidden
.\}
.PP
Next.
.TP
.BR \-a ", " \-\-all
everything
.nf
kept   as
  it is
.fi
"""
MDOC = """.Dd today
.Dt CAT 1
.Sh NAME
.Nm cat
.Nd print files
.Sh SYNOPSIS
.Nm
.Op Fl benst
.Op Ar
.Sh SEE ALSO
.Xr head 1 ,
.Nm ,
done.
"""


def test_a_manual_page_is_what_a_reader_sees():
    assert text_of(MAN) == (
        'NAME\n\ncp - copy files\n\nDESCRIPTION\n\nCopies SOURCE to DEST(1), or "many" — é•.\n\n'
        "Next.\n-a, --all everything\nkept   as\n  it is"
    )
    assert (
        text_of(MDOC) == "NAME\n\ncat - print files\n\nSYNOPSIS\n\ncat [-benst] []\n\nSEE ALSO\n\nhead(1), cat, done."
    )
    assert text_of(".so man1/other.1\n") == ""


@given(st.text('.\\"fB(*[]{}nsP \nSHPBI', max_size=80))
@settings(max_examples=60, deadline=None)
def test_no_manual_page_is_too_broken(text):
    assert isinstance(text_of(f".SH NAME\n{text}"), str)
