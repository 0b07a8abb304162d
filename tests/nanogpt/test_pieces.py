"""Sources as pieces: every entry of the catalogue from a copy of its layout on loopback, and what goes wrong there."""

import hashlib
import itertools
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.faults import UserError
from nanogpt.sources import articles, catalogue, set_files, transfers
from nanogpt.sources.account import Account
from nanogpt.sources.fetching import obtain
from nanogpt.sources.formats.family import Wanted
from nanogpt.sources.hub_address import HubAddress, parse
from nanogpt.sources.kinds import kind_of
from nanogpt.sources.part import Unobtainable
from nanogpt.sources.pieces import fetch_pieces
from nanogpt.sources.reading import read
from nanogpt.sources.survey import available
from nanogpt.spelling import path_of
from tests.nanogpt import hub_case
from tests.nanogpt.hub_case import Repository, parquet, stories

SETS = ("wikitext_2", "wikitext_103", "tinystories", "openwebtext", "fineweb_edu")


@pytest.fixture(autouse=True)
def small_spans(monkeypatch):
    """Spans of two row groups, and digests of the real files, which the copies here have not."""
    monkeypatch.setattr(set_files, "SPAN_BYTES", 10_000)
    for name in SETS:
        monkeypatch.setitem(catalogue.CATALOGUE, name, replace(catalogue.CATALOGUE[name], digests={}))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its attempts


@pytest.fixture
def hub(monkeypatch):
    with hub_case.serving(hub_case.catalogue()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub


def texts(pieces, split=None):
    """The documents of all pieces, or of a split's, as workers read them."""
    chosen = [piece for piece in pieces if split is None or piece.options["split"] == split]
    return [document.text for piece in chosen for document in read(piece)]


# ---- what each entry of the catalogue gives


def test_every_entry_of_the_catalogue_gives_its_own_text(hub, tmp_path):
    found = {name: fetch_pieces(name, None, [], tmp_path).pieces for name in SETS}
    assert texts(found["tinystories"]) == stories(40), "the parquet files' train split, neither TinyStories-train.txt"
    assert texts(found["openwebtext"]) == stories(30, "page") + stories(30, "other page")
    assert texts(found["fineweb_edu"]) == stories(30, "sample") + stories(30, "second sample")
    for name, config in (("wikitext_2", "wikitext-2-raw-v1"), ("wikitext_103", "wikitext-103-raw-v1")):
        pieces = found[name]
        assert [piece.options["split"] for piece in pieces][:2] == ["val", "test"]
        for split, title in (("train", "first"), ("val", "validation"), ("test", "test")):
            joined = "".join(texts(pieces, split))
            assert joined.count(f" = {config} {title} ") == (15 if split == "train" else 3) and " = = Part" in joined
        assert len(texts(pieces, "val")) == 3, "three articles, whole"


def test_no_more_is_fetched_than_is_asked_for_and_more_continues_where_less_ended(hub, tmp_path):
    whole = sum(len(content) for path, content in hub_case.fineweb_edu().files.items() if "10BT" in path)
    some = fetch_pieces("fineweb_edu", 12_000, [], tmp_path)
    assert 10_000 < some.bytes < 30_000 and len(some.pieces) == 1
    footers = hub.sent_bytes
    hub.requests.clear()
    assert fetch_pieces("fineweb_edu", 12_000, [], tmp_path) == some and not hub.requests, "it is here"
    more = fetch_pieces("fineweb_edu", 40_000, [], tmp_path)
    assert more.pieces[:1] == some.pieces and more.bytes > some.bytes
    assert all(request.range for request in hub.requests if "/resolve/" in request.path)
    assert hub.sent_bytes < whole and footers < whole


def test_spans_are_read_by_one_request_each_and_only_the_column_of_the_text(hub, tmp_path):
    ids = [f"{number:0200d}" for number in range(400)]
    hub.repositories["a/b"] = Repository({"a.parquet": parquet(stories(400), 10, {"zzz": ids})})
    fetch_pieces("hf:a/b", 100, [], tmp_path)
    hub.requests.clear()
    assert len(fetch_pieces("hf:a/b", 60_000, [], tmp_path).pieces) > 2
    size = len(hub.repositories["a/b"].files["a.parquet"])
    assert 0 < hub.sent_bytes < size / 4, "footer and the ids stay where they are"


@pytest.mark.parametrize("kind", ["folder", "hub", "bucket", "web server"])
def test_a_mirror_serves_a_data_set(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    repositories = {"roneneldan/TinyStories": hub_case.tinystories()}
    with hub_case.serving(repositories) as hub:
        mirror = {"folder": str(tmp_path / "copies"), "hub": hub.address, "bucket": "s3://bucket/copies",
                  "web server": f"{hub.address}/plain"}[kind]  # fmt: skip
        if kind == "folder":
            hub_case.write_mirror(tmp_path / "copies", repositories)
        for name, value in (
            ("AWS_ENDPOINT_URL", hub.address),
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "b"),
        ):
            monkeypatch.setenv(name, value)
        found = fetch_pieces("tinystories", None, [mirror], tmp_path / "data")
        assert available("tinystories", [mirror], tmp_path / "none").where == "mirror"
        if kind == "bucket":
            hub.objects["tinyshakespeare.txt"] = b"To be"
            with pytest.raises(Unobtainable, match=r"copies/tinyshakespeare.txt is not tiny_shakespeare \(sha256"):
                obtain(replace(catalogue.TINY_SHAKESPEARE, homes=()), tmp_path, [mirror])
            known = replace(catalogue.TINY_SHAKESPEARE, homes=(), sha256=hashlib.sha256(b"To be").hexdigest())
            assert obtain(known, tmp_path, [mirror])[0].read_bytes() == b"To be"
    assert texts(found.pieces) == stories(40) and found.origin.startswith(mirror)


def test_the_text_is_the_same_wherever_it_came_from(hub, tmp_path):
    mirror = hub_case.write_mirror(tmp_path / "mirror", hub_case.catalogue())
    here = fetch_pieces("wikitext_2", None, [], tmp_path / "a")
    there = fetch_pieces("wikitext_2", None, [str(mirror)], tmp_path / "b")
    assert here.sha256 == there.sha256 and here.bytes == there.bytes
    assert here.licence == "CC BY-SA 3.0 and GFDL"
    assert fetch_pieces("hf:roneneldan/TinyStories", 100, [], tmp_path / "b").licence == "cdla-sharing-1.0"


# ---- where it breaks


def test_a_place_that_breaks_off_is_followed_by_the_next_and_nothing_is_fetched_twice(hub, tmp_path):
    notes = []
    with hub_case.serving(hub_case.catalogue()) as broken:
        broken.fails.append("train-00001")
        found = fetch_pieces("tinystories", None, [broken.address], tmp_path, lambda *words: notes.append(words))
        assert broken.sent_bytes
    assert texts(found.pieces) == stories(40)
    assert "has no such file" in notes[0][0] and notes[0][1] == "tried the next place"


def test_without_a_network_what_was_downloaded_before_is_learned_from(hub, tmp_path, monkeypatch):
    some = fetch_pieces("tinystories", 12_000, [], tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    notes = []
    found = fetch_pieces("tinystories", None, [], tmp_path, lambda *words: notes.append(words))
    assert found.pieces == some.pieces and "no connection to http://127.0.0.1:9" in found.shortfall
    assert "that are here" in notes[-1][1]
    with pytest.raises(Unobtainable, match="fineweb-edu:sample-10BT could not be obtained"):
        fetch_pieces("fineweb_edu", 100, [], tmp_path)
    by_name = {name: available(name, [], tmp_path) for name in [*catalogue.CATALOGUE, catalogue.EMBEDDED]}
    assert by_name["tinystories"].bytes_here == some.bytes and by_name["tinystories"].where == "nowhere"
    assert by_name["embedded"].where == "here" and "127.0.0.1" in by_name["fineweb_edu"].reason


@pytest.mark.parametrize("damage", ["cut", "gone", "note", "footer"])
def test_a_damaged_copy_is_fetched_again(hub, tmp_path, damage):
    before = fetch_pieces("openwebtext", 30_000, [], tmp_path)
    file = path_of(before.pieces[0].address)
    if damage == "gone":
        file.unlink()
    else:
        victim = {"cut": file, "note": file.with_suffix(".json"), "footer": file.parent / "footer"}[damage]
        victim.write_bytes(victim.read_bytes()[:-9])
    assert fetch_pieces("openwebtext", 30_000, [], tmp_path) == before
    assert texts(before.pieces)[0] == stories(1, "page")[0]


CHILD = """
import sys
from pathlib import Path
from nanogpt.sources import set_files
from nanogpt.sources.pieces import fetch_pieces
set_files.SPAN_BYTES = 10_000
fetch_pieces("hf:a/b", None, [], Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_killed_download_goes_on_where_it_was(hub, tmp_path, monkeypatch):
    """The process is killed while its third span comes: what was there is not asked for again."""
    hub.repositories["a/b"] = Repository({"a.parquet": parquet(stories(120))})
    hanging, reached = threading.Event(), threading.Event()

    def hang(request):
        if sum("/resolve/" in asked.path for asked in hub.requests) > 4:
            reached.set()
            hanging.wait(60)

    hub.before_file = hang
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)])
    try:
        assert reached.wait(60)
        while not list(tmp_path.rglob("*-*.json")):
            time.sleep(0.02)
    finally:
        child.kill()
        child.wait()
        hanging.set()
    whole = list(tmp_path.rglob("*-*.json"))
    with hub_case.serving(hub.repositories) as again:
        monkeypatch.setenv("HF_ENDPOINT", again.address)
        found = fetch_pieces("hf:a/b", None, [], tmp_path)
    assert texts(found.pieces) == stories(120)
    spans = [request for request in again.requests if "/resolve/" in request.path]
    assert 0 < len(spans) == len(found.pieces) - len(whole) < len(found.pieces)


def test_what_still_comes_from_a_place_that_was_given_up_is_not_written(hub, tmp_path):
    """Of the mirror's answers, two are footers, the third is a span; then it has nothing more, and others hang."""
    set_of_stories = {"a/b": Repository({"a.parquet": parquet(stories(120)), "b.parquet": parquet(stories(60))})}
    hub.repositories |= set_of_stories
    hanging, released, turns = threading.Event(), threading.Event(), itertools.count(1)
    with hub_case.serving(set_of_stories) as broken:

        def trouble(request):
            turn = next(turns)
            if turn == 3:
                hanging.wait(20)
                broken.fails.append("parquet")
            elif turn > 3:
                hanging.set()
                released.wait(20)

        broken.before_file = trouble
        found = fetch_pieces("hf:a/b", None, [broken.address], tmp_path)
        before = [path_of(piece.address).stat().st_mtime_ns for piece in found.pieces]
        released.set()
        for thread in threading.enumerate():
            if thread.name.startswith("download"):
                thread.join(20)
        assert [path_of(piece.address).stat().st_mtime_ns for piece in found.pieces] == before
    assert texts(found.pieces) == stories(120) + stories(60) and next(turns) > 4


def test_two_runs_share_one_download(hub, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: fetch_pieces("openwebtext", None, [], tmp_path), range(2))
    assert first == second
    asked = [(request.path, request.range) for request in hub.requests if "/resolve/" in request.path]
    assert len(asked) == len(set(asked))


def test_a_set_that_changed_meanwhile_is_not_mixed_with_what_was_begun(hub, tmp_path):
    fetch_pieces("tinystories", 12_000, [], tmp_path)
    hub.repositories["roneneldan/TinyStories"] = replace(hub_case.tinystories(60), commit="b" * 40)
    found = fetch_pieces("tinystories", None, [], tmp_path)
    assert "no revision" in found.shortfall or "another version" in found.shortfall
    assert texts(found.pieces) == stories(40)[: len(texts(found.pieces))]


def test_a_file_of_another_digest_than_the_catalogue_knows_is_refused(hub, tmp_path, monkeypatch):
    path = "wikitext-2-raw-v1/train-00000-of-00001.parquet"
    known = replace(catalogue.CATALOGUE["wikitext_2"], digests={path: "0" * 64})
    monkeypatch.setitem(catalogue.CATALOGUE, "wikitext_2", known)
    mirror = hub_case.write_mirror(tmp_path / "mirror", hub_case.catalogue())
    with pytest.raises(Unobtainable) as caught:
        fetch_pieces("wikitext_2", None, [str(mirror)], tmp_path / "data")
    assert str(caught.value).count("(sha256 differs)") == 2


def test_a_full_disk_is_noticed_before_anything_is_fetched(hub, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(set_files.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match=r"to come, 1,000 B are free"):
        fetch_pieces("tinystories", None, [], tmp_path)
    assert not list(Path(tmp_path).rglob("*-*.parquet"))


@pytest.mark.parametrize("source, words", [
    ("hf:nobody/nothing", "has no data set nobody/nothing, or it is private (HF_TOKEN"),
    ("hf:roneneldan/TinyStories@v9", "has no revision v9"),
    ("hf:Salesforce/wikitext", "has several configurations, wikitext-103-raw-v1, wikitext-103-v1,"),
    ("hf:Salesforce/wikitext:wikitext-2-ra", 'did you mean "wikitext-2-raw-v1"'),
    ("hf:HuggingFaceFW/fineweb-edu::urls", 'it has \'text\', \'id\', \'url\' (did you mean "url"?)'),
    ("hf:me/gated", "for people who accepted its terms at http"),
    ("hf:me/numbers", "me/numbers: has no column of text"),
    ("hf:me/pictures", "has no parquet files to train on"),
    ("hf:broken", "should be hf:owner/name, with :config and :column"),
])  # fmt: skip
def test_a_persons_mistake_is_one_line(hub, tmp_path, source, words):
    hub.repositories |= {
        "me/gated": Repository({"a.parquet": parquet(["a"])}, token="key", gated=True),
        "me/numbers": Repository({"a.parquet": parquet([1, 2])}),
        "me/pictures": Repository({"a.png": b"png"}),
    }
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        fetch_pieces(source, 100, [], tmp_path)
    assert str(caught.value).startswith("data.source: ") and "\n" not in str(caught.value)


def test_a_token_opens_what_is_private_or_gated(hub, tmp_path, monkeypatch):
    files = {"train.parquet": parquet(stories(3))}
    hub.repositories |= {"me/private": Repository(files, token="key"), "me/gated": Repository(files, {}, "key", True)}
    monkeypatch.setenv("HF_TOKEN", "key")
    for name in ("me/private", "me/gated"):
        assert texts(fetch_pieces(f"hf:{name}", None, [], tmp_path).pieces) == stories(3)


# ---- which files and which column


def test_a_set_in_other_formats_comes_from_the_hubs_own_conversion(hub, tmp_path):
    converted = {f"plain/{split}/0000.parquet": parquet(stories(3, split)) for split in ("train", "test")}
    hub.repositories["me/old"] = Repository({"README.md": b"", "old.py": b"pass"}, converted)
    assert texts(fetch_pieces("hf:me/old", None, [], tmp_path).pieces) == stories(3, "train")


@pytest.mark.parametrize("files, source, found", [
    (["train.parquet", "valid.parquet", "test.parquet"], "hf:a/b", "train.parquet"),
    (["data/dev-0.parquet", "data/train-0.parquet"], "hf:a/b", "data/train-0.parquet"),
    (["x/one.parquet", "y/two.parquet"], "hf:a/b:y", "y/two.parquet"),
    (["sample/10BT/0.parquet", "sample/9BT/0.parquet"], "hf:a/b:sample-10BT", "sample/10BT/0.parquet"),
    (["only.parquet"], "hf:a/b::own", "only.parquet"),
])  # fmt: skip
def test_without_a_card_names_say_which_files_to_train_on(hub, tmp_path, files, source, found):
    tables = {path: parquet([b"?"], 10, {"own": [f"text of {path}"]}) for path in files}
    hub.repositories["a/b"] = Repository(tables)
    wanted = Wanted(column="own", repair=True)
    pieces = fetch_pieces(source, None, [], tmp_path, wanted=wanted).pieces
    assert texts(pieces) == [f"text of {found}"] and pieces[0].options["repair"] == "true"


@given(st.from_regex(r"[A-Za-z0-9][\w.-]{0,20}", fullmatch=True).filter(str.isascii), st.sampled_from([None, "x-1"]),
       st.sampled_from([None, "text"]), st.sampled_from(["main", "refs/pr/1"]))  # fmt: skip
@settings(max_examples=30)
def test_an_address_is_written_as_it_is_read(name, config, column, revision):
    address = HubAddress("owner", name, config, column, revision)
    assert parse(str(address)) == address


@given(st.lists(st.text("ab = \n", max_size=6), max_size=12))
@settings(max_examples=50)
def test_articles_hold_every_line_once(lines):
    joined = "".join(articles.joined(lines))
    assert joined == "".join(lines) or not "".join(lines).strip() or joined.strip() == "".join(lines).strip()


# ---- the rest


def test_files_on_this_machine_and_token_ids(tmp_path):
    (tmp_path / "book.txt").write_text("a book")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    found = fetch_pieces(str(tmp_path), None, [], tmp_path / "unused", account=(account := Account()))
    assert [document.text for piece in found.pieces for document in read(piece)] == ["a book"]
    assert found.bytes == 6 and account.left_out["not_a_text_format"] == 1
    for name in ("train.bin", "val.bin"):
        (tmp_path / name).write_bytes(bytes(8))
    assert kind_of(str(tmp_path)) == "nanogpt" and kind_of("hf:a/b") == kind_of("tinystories") == "hub"
    with pytest.raises(UserError, match="nanogpt import-data takes it as it is"):
        fetch_pieces(str(tmp_path), None, [], tmp_path)


def test_several_connections_report_their_rate_and_a_standstill_ends_them(monkeypatch):
    reports, hanging = [], threading.Event()
    jobs = [transfers.Transfer(1 << 20, lambda: None) for _ in range(8)]
    transfers.run_all(jobs, reports.append)
    assert reports[-1].done_bytes == 8 << 20 and reports[-1].seconds_left == 0
    assert str(transfers.Progress(1 << 20, 3 << 20, 2.0)) == "1.0 MiB of 3.0 MiB, 512.0 KiB/s, 4.0 s left"
    monkeypatch.setattr(transfers, "STANDSTILL_SECONDS", 0.05)
    monkeypatch.setattr(transfers, "SECONDS_BETWEEN_REPORTS", 0.02)
    try:
        with pytest.raises(Unobtainable, match="nothing has come"):
            transfers.run_all([transfers.Transfer(1, lambda: hanging.wait(20))])
    finally:
        hanging.set()
