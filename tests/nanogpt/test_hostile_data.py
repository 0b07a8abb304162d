"""What damaged and hostile files, hubs, tokenizers and disks do to a preparation: one line, nothing half for whole."""

import errno
import gzip
import json
import os
import zipfile
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from nanogpt import cli, durable
from nanogpt.config import DataConfig
from nanogpt.corpus import deciding, kept, pipeline
from nanogpt.corpus.shard_making import ShardMaker, ShardTask
from nanogpt.faults import CorruptFileError, UserError
from nanogpt.sources import hub_client, own, reading
from nanogpt.sources.account import Account
from nanogpt.sources.document import Piece
from nanogpt.sources.formats.family import Wanted
from nanogpt.sources.part import Unobtainable
from nanogpt.sources.pieces import fetch_pieces
from nanogpt.tokenizers.making import make_tokenizer
from tests.nanogpt import hub_case
from tests.nanogpt.hub_case import Repository, parquet, stories

pytestmark = pytest.mark.fast
TEXT = "The quality of mercy is not strain'd,\nIt droppeth as the gentle rain from heaven.\n" * 20
CONFIG = DataConfig(val_fraction=0.1, test_fraction=0.1)


def read(path):
    account = Account()
    return list(reading.read_file(path, path.name, "own", Wanted(), account)), account


# ---- files


def test_a_damaged_member_of_an_archive_packed_by_lzma_is_counted(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.txt", os.urandom(500).hex())
    damaged = bytearray(path.read_bytes())
    damaged[60:90] = b"\xff" * 30
    path.write_bytes(damaged)
    documents, account = read(path)
    assert documents == [] and account.left_out == {"unreadable": 1}


@pytest.mark.parametrize("name", ["hex", "rot13", "undefined", "punycode"])
def test_a_page_names_no_codec_of_python(name, tmp_path):
    path = tmp_path / "a.html"
    path.write_bytes(f'<meta charset="{name}"><p>caf'.encode() + b"\xe9 " + TEXT.encode())
    documents, account = read(path)
    assert "The quality of mercy" in documents[0].text and not account.left_out


def test_a_value_that_a_table_has_a_million_times_is_no_text(tmp_path):
    path = tmp_path / "bomb.parquet"
    rows = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array(["x y z " * 20_000]))
    pq.write_table(pa.table({"text": rows}), path, compression="zstd")
    documents, account = read(path)
    assert account.left_out == {"unreadable": 1} and "zip bomb" in account.examples["unreadable"][0]
    assert documents == []


def test_a_pattern_enters_no_link_to_where_it_lies(tmp_path):
    (tmp_path / "in/deep").mkdir(parents=True)
    for name in ("a.txt", "deep/b.txt", ".hidden.txt"):
        (tmp_path / "in" / name).write_text(TEXT + name)
    (tmp_path / "in/loop").symlink_to(".")
    found = [path.name for path in own.find_own(f"{tmp_path}/in/**/*.txt").documents]
    assert found == ["a.txt", "b.txt"]
    assert own.measure(f"{tmp_path}/in/deep/**")[0] == 1


# ---- what a kill, a full disk or a rotten byte leaves


def prepared(folder, count=60):
    """A text folder of `count` documents in two pieces, and those."""
    pieces = []
    for number in range(2):
        path = folder / f"{number}.jsonl"
        path.parent.mkdir(exist_ok=True)
        lines = [json.dumps({"text": f"{number} {line} " + TEXT[line:]}) for line in range(count // 2)]
        path.write_text("\n".join(lines))
        pieces.append(Piece("jsonl", str(path), "made"))
    config = CONFIG.model_copy(update={"near_duplicates": "ignore"})
    pipeline.prepare(pieces, folder / "text", config)
    return pieces, config


def test_a_decision_that_a_kill_left_half_written_is_made_again(tmp_path):
    pieces, config = prepared(tmp_path)
    folder = tmp_path / "text/pieces"
    codes = folder / "decided.splits"
    before = codes.read_bytes()
    codes.write_bytes(bytes(len(before)))  # what another decision had begun to write
    assert deciding.read_decisions(folder) is None
    with pytest.raises(UserError, match="is not whole"):
        pipeline.decisions_of(tmp_path / "text")
    pipeline.prepare(pieces, tmp_path / "text", config)
    assert codes.read_bytes() == before


def test_room_for_what_is_compared_is_reserved_before_it_is_written(tmp_path, monkeypatch):
    """To write into a map of a file that has no room on its disk is SIGBUS."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left") as caught:
        deciding._unnamed(tmp_path, (10, 4), np.int64)
    assert caught.value.filename == str(tmp_path)
    monkeypatch.delattr(os, "posix_fallocate")  # as on macOS
    assert deciding._unnamed(tmp_path, (10, 4), np.int64).sum() == 0


def test_a_full_disk_is_named_by_the_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable, "fsync_file", full)
    with pytest.raises(OSError, match="No space left") as caught:
        durable.write_text(tmp_path / "a", "b")
    assert caught.value.filename == str(tmp_path / "a") and not list(tmp_path.iterdir())


def test_a_lack_of_memory_does_not_set_aside_a_piece_that_is_whole(tmp_path, monkeypatch, capsys):
    def lack(*_, **__):
        raise pa.ArrowMemoryError("realloc failed")

    path = tmp_path / "piece.parquet"
    path.write_bytes(b"x")
    monkeypatch.setattr(pq, "read_table", lack)
    with pytest.raises(MemoryError):
        kept.read_sizes(path)
    assert path.exists()
    parser = Mock()
    parser.parse_args.return_value.run = lack
    monkeypatch.setattr(cli, "make_parser", lambda: parser)
    assert cli.main([]) == 2 and "not enough memory (realloc failed)" in capsys.readouterr().err


def test_a_shard_that_changed_after_a_kill_is_made_again(tmp_path, monkeypatch):
    prepared(tmp_path)
    tokenizer = make_tokenizer("byte", [], tmp_path, CONFIG)
    monkeypatch.setattr(pipeline.Making, "write", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pipeline.tokenise(tmp_path / "text", tokenizer, tmp_path / "out")
    monkeypatch.undo()
    path = tmp_path / "out/val.bin"
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    pipeline.tokenise(tmp_path / "text", tokenizer, tmp_path / "out")
    assert path.read_bytes() == before


def test_damaged_counts_of_a_shard_are_made_again(tmp_path):
    maker, task = ShardMaker(tmp_path, tmp_path, "plan", False), ShardTask("val.bin", 1, 0, 1)
    path = tmp_path / ".making/val.bin.counts.npz"
    path.parent.mkdir()
    for content in (b"PK\3\4 rotten", b"", b"\x80pickle"):
        path.write_bytes(content)
        with pytest.raises(CorruptFileError, match="the next start makes it again"):
            maker.counts(task, 10)
        assert not path.exists()


def test_two_commands_do_not_write_one_folder(tmp_path, capsys):
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "data").mkdir()
    with FileLock(tmp_path / "data/.preparing.lock"):
        assert cli.main(["prepare", str(tmp_path / "a.txt"), "--out", str(tmp_path / "data")]) == 2
    assert "another nanogpt prepare writes to" in capsys.readouterr().err
    assert cli.main(["prepare", str(tmp_path / "a.txt"), "--out", str(tmp_path / "data")]) == 0


# ---- hubs


@pytest.fixture
def hub(monkeypatch):
    with hub_case.serving({"a/b": Repository({"a.parquet": parquet(stories(30))})}) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.address)
        yield served


@contextmanager
def answering(served, body, **headers):
    """Each question about a data set is answered with `body`."""

    def answer(handler: BaseHTTPRequestHandler, request, *_):
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        with suppress(OSError):  # it was given up meanwhile
            handler.wfile.write(body)

    served._answer_about = answer
    yield


@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [
        (b'{"siblings": 3}', {}, "answers what no hub does"),
        (b"[" + b" " * 300_000, {}, "sends more than the"),
        (gzip.compress(b"[" + b" " * 300_000), {"Content_Encoding": "gzip"}, "sends it compressed"),
    ],
    ids=["no answer of a hub", "too long", "compressed"],  # else the bytes, with gzip's time: another in each worker
)
def test_a_hub_that_answers_too_much_or_nonsense_is_given_up(body, headers, words, hub, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_client, "LARGEST_ANSWER", 100_000)
    with answering(hub, body, **headers), pytest.raises(Unobtainable, match=words) as caught:
        fetch_pieces("hf:a/b", None, [], tmp_path)
    assert "\n" not in str(caught.value)


def test_a_persons_key_goes_to_no_mirror(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "key")
    with hub_case.serving(hub.repositories) as mirror:
        fetch_pieces("hf:a/b", None, [mirror.address], tmp_path / "data")
        with pytest.raises(UserError):
            make_tokenizer("hf:a/none", [], tmp_path, DataConfig(mirror=[mirror.address]))
    assert mirror.requests and {request.authorization for request in mirror.requests} == {None}
    assert "Bearer key" in {request.authorization for request in hub.requests}


def test_a_footer_that_changed_on_the_disk_is_fetched_again(hub, tmp_path):
    before = fetch_pieces("hf:a/b", None, [], tmp_path)
    [footer] = tmp_path.rglob("footer")
    content = bytearray(footer.read_bytes())
    content[len(content) // 2] ^= 1
    footer.write_bytes(content)
    assert fetch_pieces("hf:a/b", None, [], tmp_path).pieces == before.pieces
    assert footer.read_bytes() != content


# ---- tokenizers

PRECOMPILED, REPLACE = {"type": "Precompiled"}, {"type": "Replace"}


def written(path, change):
    alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    content = json.loads(made.to_str())
    change(content)
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content["model"]["vocab"].update(zz=1 << 31), "has the id 2,147,483,648"),
        (
            lambda content: content.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
            "Precompiled",
        ),
        (
            lambda content: content.update(normalizer={**REPLACE, "pattern": {"Regex": ""}, "content": "xxxx"}),
            "cannot use this tokenizer.json",
        ),
    ],
)
def test_a_tokenizer_that_would_end_the_process_is_refused(change, words, tmp_path):
    with pytest.raises(UserError, match=words) as caught:
        make_tokenizer(written(tmp_path / "tokenizer.json", change), [], tmp_path, DataConfig())
    assert "\n" not in str(caught.value)
