"""Sources: mirrors in turn, public homes, folders, files, and no network at all."""

import hashlib
import os
import re
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler

import pytest
from filelock import FileLock

from nanogpt import durable
from nanogpt.config import DataConfig
from nanogpt.faults import UserError
from nanogpt.sources import catalogue, download, embedded, own, part
from nanogpt.sources.catalogue import PublicFile
from nanogpt.sources.fetching import check_source, fetch, fingerprint, obtain
from nanogpt.sources.own import find_own
from nanogpt.sources.part import Unobtainable
from nanogpt.spelling import path_of, spelled
from tests.conftest import free_port
from tests.loopback import serving

TEXT = b"The quality of mercy is not strain'd.\n" * 400
SHA256 = hashlib.sha256(TEXT).hexdigest()


@contextmanager
def server(body=TEXT, status=200):
    """Yields the address of a server that always gives this answer, and the paths it was asked for."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with serving(Handler) as address:
        yield address, requests


def entry(*homes):
    return PublicFile("play", "play.txt", homes, SHA256, len(TEXT))


def telling(lines):
    return lambda fault, remedy: lines.append(f"{fault}; {remedy}")


def nowhere():
    """An address that refuses connections."""
    return f"http://127.0.0.1:{free_port()}/play.txt"


@pytest.fixture(autouse=True)
def no_waiting_between_attempts(monkeypatch):
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.0)


def test_a_damaged_copy_is_fetched_again_and_a_good_one_kept(tmp_path):
    (tmp_path / "play.txt").write_bytes(TEXT[:-1])
    lines = []
    with server() as (address, requests):
        for _ in range(2):
            path, _ = obtain(entry(f"{address}/play.txt"), tmp_path, notify=telling(lines))
    assert path.read_bytes() == TEXT and len(requests) == 1
    assert any("sha256 differs" in line for line in lines)


@pytest.mark.parametrize("damage", ["a folder", "a dangling link"])
def test_what_is_no_file_is_replaced_by_the_download(tmp_path, damage):
    (tmp_path / "play.txt").mkdir() if damage == "a folder" else (tmp_path / "play.txt").symlink_to("nothing")
    lines = []
    with server() as (address, _):
        path, _ = obtain(entry(f"{address}/play.txt"), tmp_path, notify=telling(lines))
    assert path.read_bytes() == TEXT and "play.txt is not what it should be" in lines[0]


def test_mirror_url_comes_first(tmp_path):
    with server() as (address, requests):
        _, origin = obtain(entry(nowhere()), tmp_path, [f"{address}/copies/"])
    assert requests == ["/copies/play.txt"] and origin == f"{address}/copies/play.txt"


def test_mirror_folder_comes_first(tmp_path):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "play.txt").write_bytes(TEXT)
    path, origin = obtain(entry(nowhere()), tmp_path / "data", [str(mirror)])
    assert path.read_bytes() == TEXT and origin == str(mirror / "play.txt")


def test_what_another_process_holds_and_does_not_get_is_copied_where_that_is_possible(tmp_path, monkeypatch):
    monkeypatch.setattr(part, "NOTICE_SECONDS", 0.02)
    monkeypatch.setattr(part, "STANDSTILL_SECONDS", 0.02)
    data, mirror = tmp_path / "data", tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "play.txt").write_bytes(TEXT)
    held = FileLock(data / ".play.txt.lock", thread_local=False)
    data.mkdir()
    with held, server() as (address, requests):
        with pytest.raises(Unobtainable, match="another process holds"):
            obtain(entry(f"{address}/play.txt"), data)
        path, origin = obtain(entry(f"{address}/play.txt"), data, [str(mirror)])
        assert path.read_bytes() == TEXT and origin == str(mirror / "play.txt")
        assert obtain(entry(f"{address}/play.txt"), data) == (path, f"{address}/play.txt"), "it is there already"
    assert not requests


@pytest.mark.parametrize("copy", [None, TEXT[::-1]], ids=["missing", "damaged"])
def test_a_useless_mirror_leads_to_the_home(tmp_path, copy):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    if copy:
        (mirror / "play.txt").write_bytes(copy)
    lines = []
    with server() as (address, _):
        _, origin = obtain(entry(f"{address}/play.txt"), tmp_path / "data", [str(mirror)], telling(lines))
    assert origin.startswith(address) and "mirror" in lines[0]


def test_each_mirror_and_each_home_has_its_turn(tmp_path):
    mirror, lines = tmp_path / "mirror", []
    mirror.mkdir()
    with server(status=404) as (lacking, asked), server(TEXT[::-1]) as (wrong, _), server() as (right, _):
        home = f"{right}/play.txt"
        _, origin = obtain(entry(f"{wrong}/play.txt", home), tmp_path / "data", [str(mirror), lacking], telling(lines))
    assert origin == home and len(asked) == 1, "a 404 is no reason to ask three times"
    again = ["wrong bytes .* asked again"] * 2
    reported = ["the mirror has no", "answers 404", *again, "wrong bytes .* next place"]
    for line, words in zip(lines, reported, strict=True):
        assert re.search(words, line)


def test_when_all_fail_every_reason_is_reported(tmp_path):
    with server(status=404) as (address, _), pytest.raises(Unobtainable, match=r"answers 404 .*; no connection to"):
        obtain(entry(f"{address}/play.txt", nowhere()), tmp_path)


@pytest.mark.parametrize(
    "written, places",
    [(None, []), ("/a", ["/a"]), ("/a, http://b/c", ["/a", "http://b/c"]), (["/a,b", "/c"], ["/a,b", "/c"])],
)
def test_one_mirror_or_several(written, places):
    assert DataConfig(mirror=written).mirrors == places


@pytest.fixture
def short_embedded_corpus(monkeypatch):
    """To gather the whole one takes 2 s; test_embedded_corpus_is_english_big_enough_and_always_the_same does."""
    monkeypatch.setattr(embedded, "_embedded_pieces", lambda: ["A short corpus, embedded."])


def test_without_network_and_mirror_the_embedded_corpus_is_taken(tmp_path, monkeypatch, short_embedded_corpus):
    plays = replace(PLAYS, file=entry(nowhere()))
    monkeypatch.setitem(catalogue.CATALOGUE, "tiny_shakespeare", plays)
    lines = []
    fetched = fetch("tiny_shakespeare", tmp_path, notify=telling(lines))
    assert fetched.origin == "embedded" and "embedded corpus" in fetched.fallback_reason
    assert fetched.fallback_reason == lines[-1] and "\n" not in lines[-1]


def test_embedded_corpus_is_english_big_enough_and_always_the_same(tmp_path):
    first, second = (fetch("embedded", tmp_path / name) for name in "ab")
    assert first.sha256 == second.sha256 and first.bytes >= 1_000_000 and first.fallback_reason is None
    text = first.documents[0].read_text(encoding="utf-8")
    assert text.count(" the ") > 5000


def test_tiny_shakespeare_from_a_mirror(tmp_path, shared_data):
    fetched = fetch("tiny_shakespeare", tmp_path, [str(shared_data)])
    assert fetched.bytes == 1_115_394 and fetched.sha256 == catalogue.CATALOGUE["tiny_shakespeare"].sha256


def test_a_persons_own_folder_in_the_order_of_its_paths(tmp_path):
    for name in ("b.txt", "a/deep.MD", "c.bin", ".hidden/x.txt", "empty.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("" if name == "empty.txt" else f"text of {name}")
    fetched = fetch(str(tmp_path), tmp_path / "unused")
    assert [path.name for path in fetched.documents] == ["deep.MD", "b.txt"]
    assert not (tmp_path / "unused").exists()


def test_fingerprint_follows_the_content(tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("one")
    before = fingerprint(str(own))
    assert before == fingerprint(str(own))
    own.write_text("two")
    assert before != fingerprint(str(own)) and fingerprint("embedded") == "embedded"


@pytest.mark.parametrize(
    "source, words",
    [
        ("missing.txt", "no file or folder"),
        ("some/where", "no file or folder"),
        ("~nobody-of-that-name/text.txt", "no file or folder"),
        ("tiny_shakespear", 'did you mean "tiny_shakespeare"'),
        ("{folder}/empty.txt", "empty"),
        ("{folder}/binary.txt", "not text"),
        ("{folder}/none", "holds no text"),
        ("{folder}/doubtful.txt", "--set data.encoding=NAME"),
    ],
)
def test_a_persons_mistakes_are_one_line(tmp_path, source, words):
    (tmp_path / "empty.txt").write_bytes(b" \n")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)))
    (tmp_path / "doubtful.txt").write_bytes("smørrebrød\n".encode("cp1252") * 99)
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=words) as caught:
        check_source(source.format(folder=tmp_path))
    assert "data.source" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("mirror", ["{folder}/absent", "ftp://me:secret@host", "https://me:secret@[host", "http://"])
def test_a_mirror_that_is_nothing_is_a_mistake(tmp_path, mirror):
    with pytest.raises(UserError, match=r"data\.mirror") as caught:
        check_source("tiny_shakespeare", [mirror.format(folder=tmp_path)])
    assert "secret" not in str(caught.value)
    check_source("tiny_shakespeare", ["https://example.org/copies"])


@pytest.mark.parametrize("mirror, words", [
    ("https://***@host/a", "*** stands for a password, which is not kept; give it again"),
    ("https://me:sec ret@host/a", "found a URL with a blank; write it as %20"),
])  # fmt: skip
def test_a_hidden_password_is_never_used_and_one_that_cannot_be_hidden_is_refused(mirror, words):
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        check_source("tiny_shakespeare", ["https://example.org", mirror])
    assert "sec ret" not in str(caught.value)


def test_no_password_of_a_mirror_is_reported_or_recorded(tmp_path):
    lines = []
    with server(status=404) as (lacking, _), server() as (right, _):
        mirrors = [address.replace("http://", "http://me:secret@") for address in (lacking, right)]
        _, origin = obtain(entry(nowhere()), tmp_path, mirrors, telling(lines))
    assert origin == right.replace("http://", "http://***@") + "/play.txt"
    assert "answers 404" in lines[0] and "secret" not in " ".join(lines)


def test_a_text_that_begins_with_much_blank_is_no_empty_one(tmp_path):
    (tmp_path / "late.txt").write_bytes(b" \n" * (3 << 19) + TEXT)
    check_source(str(tmp_path / "late.txt"))


def test_utf16_without_a_mark_is_text(tmp_path):
    (tmp_path / "wide.txt").write_bytes(TEXT.decode().encode("utf-16-le"))
    check_source(str(tmp_path))


def files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("some text\n" * 200)


OUTPUT = {  # what older versions and tools wrote: known by the files in it
    "splits of a text": ["train.txt", "val.txt", "test.txt", "statistics.json"],
    "a training": ["config.yaml", "metrics.jsonl", "README.md", "checkpoints/step-1/notes.txt"],
    "a checkpoint": ["manifest.json", "model.safetensors", "a.txt"],
    "an export": ["config.json", "model.safetensors", "README.md"],
    "adapters": ["adapter_config.json", "adapter_model.safetensors", "README.md"],
    "a run's state": ["session.json", "markers/a.json", "model_card.md"],
    "logs": ["automation_log.txt"],
    "reports": ["training_report.md", "training_report.html", "README.md"],
    "marked": [".written-by-nanogpt", "a.txt"],
    "an environment": ["pyvenv.cfg", "lib/python3/site-packages/a/LICENSE.txt"],
    "a cache": ["CACHEDIR.TAG", "a.txt"],
    "x.egg-info": ["SOURCES.txt"],
    "downloads": ["tinyshakespeare.txt", "embedded.txt"],
    ".git": ["description.txt"],
    "node_modules": ["a/README.md"],
}


def test_output_among_texts_is_left_out_and_counted(tmp_path):
    files(tmp_path, "a.txt", "mine/b.md", "mine/.hidden.txt", "data/own/c.txt")
    for folder, names in OUTPUT.items():
        files(tmp_path / "mine" / folder, *names)
    found = own.find_own(str(tmp_path))
    assert [path.relative_to(tmp_path).as_posix() for path in found.documents] == [
        "a.txt",
        "data/own/c.txt",
        "mine/b.md",
    ]
    assert {path.name for path in found.left_out} == OUTPUT.keys() - {".git"}
    assert fetch(str(tmp_path), tmp_path / "unused").left_out == len(OUTPUT) - 1


@pytest.mark.parametrize("name", ["splits of a text", "a training", "logs", "reports", "marked"])
def test_output_named_as_the_source_is_refused(tmp_path, name):
    files(tmp_path / name, *OUTPUT[name])
    text = next(path for path in (tmp_path / name).iterdir() if path.suffix in (".txt", ".md"))
    for source in (tmp_path / name, text):
        with pytest.raises(UserError, match=r"is output .* name the text that it was made from"):
            check_source(str(source))


def test_downloads_and_the_embedded_corpus_are_marked(tmp_path, short_embedded_corpus):
    fetch("embedded", tmp_path / "texts/of-a-run")
    files(tmp_path / "texts", "own.txt")
    assert find_own(str(tmp_path / "texts")).documents == [tmp_path / "texts/own.txt"]


def test_names_that_are_not_utf8_can_be_recorded(tmp_path):
    name = os.fsdecode(b"caf\xe9.txt")
    files(tmp_path, name, "plain.txt")
    fetched = fetch(str(tmp_path), tmp_path / "unused")
    prints = fingerprint(str(tmp_path))
    assert set(prints) == {"caf\\xe9.txt", "plain.txt"} and fetched.documents == [
        tmp_path / name,
        tmp_path / "plain.txt",
    ]
    durable.write_json(tmp_path / "facts.json", [prints, fetched.origin, *map(spelled, fetched.documents)])
    assert [path_of(spelled(path)) for path in fetched.documents] == fetched.documents
    (tmp_path / name).write_bytes(bytes(range(256)))
    check_source(str(tmp_path))
    (tmp_path / "plain.txt").unlink()
    with pytest.raises(UserError) as caught:
        check_source(str(tmp_path))
    str(caught.value).encode("utf-8")
    assert "caf\\xe9.txt is not text" in str(caught.value)


# ---- the name of a text, where others may read it


@pytest.mark.parametrize("source, name", [
    ("tiny_shakespeare", "tiny_shakespeare"), ("embedded", "embedded"), ("letters", "letters"),
    ("/home/ada/letters", "letters"), ("/home/ada/letters/", "letters"), ("a/b.txt", "b.txt"), ("a/..", "HERE"),
    (".", "HERE"), ("~", "home"), ("~/mine.txt", "mine.txt"), ("./embedded", "embedded (own)"), ("/", "unknown"),
    ("unknown", "unknown"),
])  # fmt: skip
def test_a_text_is_called_by_the_last_part_of_its_path(source, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = own.name_of(source)
    assert found == name.replace("HERE", tmp_path.name) and own.name_of(found) == found


def test_a_name_that_is_not_utf8_can_be_recorded(tmp_path):
    assert own.name_of(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.txt")) == "caf\\xe9.txt"


PLAYS = catalogue.CATALOGUE["tiny_shakespeare"]


@pytest.mark.parametrize("of_data, stated, sha256, name", [
    ("letters", "tiny_shakespeare", PLAYS.sha256, "letters"), (None, "tiny_shakespeare", PLAYS.sha256, PLAYS.name),
    (None, "tiny_shakespeare", "00", "unknown"), (None, None, "00", "unknown"), (None, None, PLAYS.sha256, PLAYS.name),
    (None, "/home/ada/letters", "00", "/home/ada/letters"), (None, "/home/ada/plays.txt", PLAYS.sha256,
    "/home/ada/plays.txt"), (None, "embedded", "00", "embedded"), (None, "unknown", PLAYS.sha256, PLAYS.name),
])  # fmt: skip
def test_what_a_training_calls_its_text(of_data, stated, sha256, name):
    assert catalogue.recorded_name(of_data, stated, sha256) == name
