"""Files of every format as documents: what is in them, and what a damaged or hostile one does."""

import gzip
import io
import json
import os
import zipfile

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanogpt.records import from_json, to_json
from nanogpt.sources import own_pieces, reading
from nanogpt.sources.account import Account
from nanogpt.sources.document import Piece
from nanogpt.sources.formats import compressed, family, plain, records
from nanogpt.sources.formats.family import Wanted
from nanogpt.sources.formats.markup import text_of

TEXT = "The quality of mercy is not strain'd,\nIt droppeth as the gentle rain from heaven.\n" * 20
CONTAINER = '<container xmlns="x"><rootfiles><rootfile full-path="in/book.opf"/></rootfiles></container>'
PACKAGE = (
    '<package xmlns="http://www.idpf.org/2007/opf"><manifest><item id="a" href="a%20b.xhtml"/>'
    '<item id="b" href="b.xhtml"/></manifest><spine><itemref idref="b"/><itemref idref="a"/></spine></package>'
)
PAGE = (
    "<!doctype html><html><head><title>x</title><style>p{}</style></head><body><nav>menu</nav><h1>A  title</h1>"
    "<p>One para\ngraph, <b>bold</b>.<br>A line<ul><li>one<li>two</ul><script>var x</script><pre>a\n  b</pre>end</body>"
)


def zipped(members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def zst(data):
    return pa.Codec("zstd").compress(data, asbytes=True)


def table(texts, rows=4, **others):
    out = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": texts, **others}), out, row_group_size=rows)
    return out.getvalue().to_pybytes()


def pdf(words):
    """The smallest document with a line of text."""
    content = b"BT /F1 12 Tf 72 720 Td (%s) Tj ET" % words.encode()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(content), content),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj%sendobj\n" % (number, body)
    entries = b"".join(b"%010d 00000 n \n" % place for place in places)
    return out + b"xref\n0 6\n0000000000 65535 f \n%strailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (
        entries,
        len(out),
    )


def documents(source, account=None, **wanted):
    """{name: text}; pieces cross JSON on their way to a worker."""
    account = Account() if account is None else account
    pieces = own_pieces.own_pieces(str(source), Wanted(**wanted), account)
    pieces = [from_json(Piece, json.loads(json.dumps(to_json(piece)))) for piece in pieces]
    return {document.name: document.text for piece in pieces for document in reading.read(piece, account)}


CONTENTS = {  # a file -> its documents
    "a.txt": (TEXT.encode(), {"a.txt": TEXT}),
    "a_log.txt": (b"begun\n" * 9 + b"\0\0" + b"ended\n", {"a_log.txt": "begun\n" * 9 + "\0\0ended\n"}),
    "b.MD": (b"# Head\n", {"b.MD": "# Head\n"}),
    "c.jsonl": (b'{"text": "one"}\n\n"two"\n', {"c.jsonl:0": "one", "c.jsonl:17": "two"}),
    "e.csv": (b'id;content\n1;"a ""quoted"" text\nof two lines"\n', {"e.csv:2": 'a "quoted" text\nof two lines'}),
    "e.tsv": ("\ufefftext\tid\nhéllo\t1\n".encode("utf-16-le"), {"e.tsv:2": "héllo"}),
    "f.parquet": (table(["p", None, "q"], rows=1), {"f.parquet:1": "p", "f.parquet:3": "q"}),
    "g.html": (
        PAGE.encode(),
        {"g.html": "A title\n\nOne para graph, bold.\nA line\n\n- one\n- two\n\na\n  b\n\nend"},
    ),
    "h.txt.gz": (gzip.compress(TEXT.encode()), {"h.txt.gz": TEXT}),
    "h.jsonl.zst": (zst(b'{"text": "packed"}'), {"h.jsonl.zst:0": "packed"}),
    "i.zip": (
        zipped({"x/y.txt": TEXT, "t.parquet": table(["in"]), "z.png": b"", "__MACOSX/y.txt": "no", ".h.txt": "no"}),
        {"i.zip/t.parquet:1": "in", "i.zip/x/y.txt": TEXT},
    ),
    "k.epub": (
        zipped({"META-INF/container.xml": CONTAINER, "in/book.opf": PACKAGE, "in/a b.xhtml": "<p>Second.</p>",
                "in/b.xhtml": '<?xml version="1.0" encoding="utf-8"?><html><h1>One</h1><p>First.</p></html>'}),
        {"k.epub": "One\n\nFirst.\n\nSecond."},
    ),
    "l.pdf": (pdf("Hello, page."), {"l.pdf": "Hello, page."}),
}  # fmt: skip
DAMAGED = {  # a file -> the reason why it is left out, and words of it
    "binary.txt": (bytes(range(256)) * 4, "not_text", "is not text"),
    "nul.txt": (b"a\0b" * 400, "not_text", "is not text"),
    "empty.txt": (b"", "empty", "has no bytes"),
    "blank.md": (b" \n\t", "empty", "has no text"),
    "cut.txt.gz": (gzip.compress(os.urandom(999))[:-50], "unreadable", ""),
    "bad.parquet": (b"PAR1xxxx", "unreadable", "is no Parquet file"),
    "bad.pdf": (b"%PDF-1.4 nonsense", "unreadable", "is no PDF"),
    "bad.epub": (b"PK\3\4", "unreadable", "not a zip"),
    "no_text.csv": (b"a,b\n1,2\n", "unreadable", "--set data.column=NAME; it has 'a', 'b'"),
    "bomb.txt.gz": (gzip.compress(b"a" * (40 << 20)), "unreadable", "expands more than 200 times"),
    "bomb.zip": (zipped({"a.txt": b"a" * (40 << 20)}), "unreadable", "expands more than 200 times"),
    "picture.png": (b"\x89PNG", "not_a_text_format", "in no format of texts"),
    "settings.json": (b'["text"]', "not_a_text_format", "read where its own path is given"),
}


def test_every_format_gives_its_texts_in_order_and_what_is_none_is_counted(tmp_path):
    for name, (content, *_) in {**CONTENTS, **DAMAGED}.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "fifo.txt")
    (tmp_path / "circle.txt").symlink_to("circle.txt")
    (tmp_path / "loop").symlink_to(".")
    account = Account()
    found = documents(tmp_path, account)
    expected = {key: text for _, texts in CONTENTS.values() for key, text in texts.items()}
    assert found == expected and account.documents == len(expected)
    assert account.left_out["empty"] == 2 + 1, "a row of the parquet file is empty too"
    assert account.left_out["not_text"] == 2 and account.left_out["not_a_text_format"] == 2 + 1  # in the archive
    assert account.left_out["unreadable"] == 7 + 3
    assert account.formats["parquet"] == 3 and account.encodings["utf-16-le"] == 1


@pytest.mark.parametrize("name", DAMAGED)
def test_each_damaged_file_says_what_is_wrong_and_gives_nothing(name, tmp_path):
    content, reason, words = DAMAGED[name]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "good.txt").write_text("good")
    account = Account()
    assert documents(tmp_path, account) == {"good.txt": "good"}
    assert account.left_out == {reason: 1} and words in account.examples[reason][0]
    assert account.remarks()[0].startswith(f"left out as {reason.replace('_', ' ')}: {name}: ")


def test_a_member_of_an_archive_without_a_name_is_passed_over(tmp_path):
    archive = zipped({"a.txt": "text", "NAMELESS": "lost"})
    # In both of its headers; what reads the name ends it at NUL.
    (tmp_path / "t.zip").write_bytes(archive.replace(b"NAMELESS", b"\0AMELESS"))
    assert documents(tmp_path / "t.zip", Account()) == {"t.zip/a.txt": "text"}


@pytest.fixture
def small_parts(monkeypatch):
    """Files are cut after 64 bytes, and a line is too long beyond 200."""
    for module in (own_pieces, plain, family):
        monkeypatch.setattr(module, "PART", 64)
    monkeypatch.setattr(own_pieces, "_WINDOW", 16)
    for name in own_pieces._CUT_ABOVE:
        monkeypatch.setitem(own_pieces._CUT_ABOVE, name, 64)
    monkeypatch.setattr(records, "LONGEST", 200)


ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "cp1252", "gb18030")


@given(st.text("abcé \n", max_size=400), st.sampled_from(ENCODINGS))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_long_text_in_parts_is_the_whole_text_and_lines_stay_whole(small_parts, tmp_path_factory, text, encoding):
    path = tmp_path_factory.mktemp("long") / "long.txt"
    text = f"plain ascii first {text}" if text.strip() else "plain"
    path.write_bytes(text.encode(encoding))
    named = "auto" if encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32") else encoding
    account = Account()
    pieces = own_pieces.own_pieces(str(path), Wanted(named), account)
    parts = [document.text for piece in pieces for document in reading.read(piece, account)]
    blank = account.left_out["empty"]  # parts of nothing but blanks
    assert blank or "".join(parts).lstrip("\ufeff") == text
    if text.isascii() and encoding == "utf-8" and max(map(len, text.split("\n"))) < 48:
        assert all(part.endswith("\n") for part in parts[:-1])
    path.with_suffix(".txt.gz").write_bytes(gzip.compress(path.read_bytes()))
    streamed = documents(path.with_suffix(".txt.gz"), encoding=named)
    assert list(streamed.values()) == parts, "the same, whether sought in a file or unpacked"


@given(st.lists(st.text("ab é\n", max_size=120), max_size=12))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lines_of_json_are_the_same_however_the_file_is_cut(small_parts, tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("lines") / "lines.jsonl"
    texts = [f"{number} {text}" for number, text in enumerate(texts)] + ["the last"]
    path.write_text("".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts), encoding="utf-8")
    account = Account()
    found = documents(path, account)
    too_long = account.left_out["too_long"]
    lines = path.read_bytes().splitlines(keepends=True)
    assert too_long == sum(len(line) > 200 for line in lines) and len(found) == len(texts) - too_long
    assert [text for text, line in zip(texts, lines, strict=True) if len(line) <= 200] == list(found.values())


def test_row_groups_and_members_are_pieces_and_together_the_whole_file(small_parts, tmp_path):
    texts = [f"{number} " * 20 for number in range(20)]
    (tmp_path / "t.parquet").write_bytes(table(texts))
    (tmp_path / "t.zip").write_bytes(zipped({f"{number:02}.txt": text for number, text in enumerate(texts)}))
    for name in ("t.parquet", "t.zip"):
        assert len(own_pieces.own_pieces(str(tmp_path / name))) > 2
        assert list(documents(tmp_path / name).values()) == texts


def test_a_file_that_changes_after_it_was_cut_or_while_it_is_read_is_counted(small_parts, tmp_path, monkeypatch):
    path = tmp_path / "long.txt"
    path.write_text(TEXT)
    pieces, account = own_pieces.own_pieces(str(path)), Account()
    path.write_text(TEXT + "more")
    assert not [document for piece in pieces for document in reading.read(piece, account)]
    assert account.left_out == {"changed_while_read": len(pieces)}

    small, decode = tmp_path / "small.txt", plain.decode
    small.write_text("small")
    monkeypatch.setattr(plain, "decode", lambda *given: (small.write_text("another"), decode(*given))[1])
    account = Account()
    assert documents(small, account) == {} and account.left_out == {"changed_while_read": 1}
    monkeypatch.setattr(reading, "WHOLE", 0)
    small.write_text("as large as one that is not held at once")
    account = Account()
    assert len(documents(small, account)) == 1 and "what came of it is kept" in account.remarks()[0]


def test_parts_are_read_wherever_fsspec_reaches_and_a_fault_there_is_raised():
    fsspec.filesystem("memory").pipe("/texts/a.jsonl", b'{"text": "one"}\n{"text": "two"}\n')
    piece = Piece("jsonl", "memory://texts/a.jsonl", "far", first=16)
    assert [(document.name, document.text) for document in reading.read(piece)] == [("a.jsonl:16", "two")]
    with pytest.raises(OSError):
        list(reading.read(Piece("text", "memory://texts/gone.txt", "far")))


def test_a_bomb_of_many_members_has_one_allowance(tmp_path, monkeypatch):
    monkeypatch.setattr(compressed, "HARMLESS", 1 << 20)
    (tmp_path / "many.zip").write_bytes(zipped({f"{number}.txt": b"a" * 300_000 for number in range(5)}))
    account = Account()
    assert documents(tmp_path / "many.zip", account) == {} and "expands more than" in account.examples["unreadable"][0]


def test_mojibake_is_repaired_where_that_is_asked_for_and_counted(tmp_path):
    (tmp_path / "a.txt").write_text("schÃ¶n\nschön\n\u201cfine\u201d\n", encoding="utf-8")
    account = Account()
    assert documents(tmp_path, account, repair=True) == {"a.txt": "schön\nschön\n\u201cfine\u201d\n"}
    assert account.repaired == 1 and documents(tmp_path)["a.txt"].startswith("schÃ¶n")


@given(st.text("<>/&;\"'ab c!-[]?\n", max_size=60), st.sampled_from(["", "<p>", "<!--", "<?xml ", "<pre>", "<li>"]))
@settings(max_examples=40, deadline=None)
def test_no_page_is_too_broken(text, before):
    assert isinstance(text_of(before + text), str)


def test_a_page_in_the_encoding_that_it_declares(tmp_path):
    (tmp_path / "page.html").write_bytes('<meta charset="iso-8859-1"><p>Käse \x96 ß'.encode("latin-1"))
    assert documents(tmp_path) == {"page.html": "Käse – ß"}
