"""The tokenizer that data.tokenizer names: made, read from a tokenizer.json of any kind, or fetched from a hub."""

import base64
import hashlib
import json
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler

import huggingface_hub.constants
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from nanogpt.config import DataConfig, token_folder
from nanogpt.faults import UserError
from nanogpt.tokenizers import any_file, making, published
from nanogpt.tokenizers.byte_pairs import BPETokenizer
from nanogpt.tokenizers.loading import load_tokenizer
from nanogpt.tokenizers.making import PROBE, check_kind, make_tokenizer
from nanogpt.tokenizers.vocabulary import likely_bytes_per_token, likely_size
from tests.loopback import serving

pytestmark = pytest.mark.fast
LINES = ["To be, or not to be, that is the question:", "Whether 'tis nobler in the mind to suffer 1,603 slings"] * 20
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)


def byte_level(pre_tokenizer=BYTES, normalizer=None, plain=()):
    """As GPT-2's and those that came after it; `plain`: tokens that are found in a text."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizer, decoders.ByteLevel()
    if normalizer:
        made.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(LINES, trainer)
    made.add_tokens(list(plain))
    return json.loads(made.to_str())


def sentence_piece():
    """As Llama 2's: a blank before the text, a token around it, bytes for what is no token."""
    made = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    blanks = decoders.Replace("▁", " ")
    made.decoder = decoders.Sequence([blanks, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    special = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    made.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=330, special_tokens=special, show_progress=False))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    content = json.loads(made.to_str())
    content["added_tokens"] = content["added_tokens"][:2]
    return content


def word_piece():
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(LINES, trainers.WordPieceTrainer(special_tokens=["[UNK]"], show_progress=False))
    return json.loads(made.to_str())


def write(folder, content, settings=None):
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return str(folder / "tokenizer.json")


DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES])
PREFIXED = pre_tokenizers.ByteLevel(add_prefix_space=True)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (byte_level, BPETokenizer),
        (lambda: byte_level(PREFIXED, normalizers.NFC()), BPETokenizer),
        (lambda: byte_level(DIGITS), any_file.LibraryTokenizer),
        (lambda: byte_level(plain=["    "]), any_file.LibraryTokenizer),
        (sentence_piece, any_file.LibraryTokenizer),
    ],
    ids=["gpt2", "nfc", "digits", "blanks", "sentencepiece"],
)
def test_any_tokenizer_json_is_read_and_saved_as_what_gives_the_same_ids(content, kind, tmp_path):
    found = make_tokenizer(write(tmp_path / "theirs", content(), {"eos_token": "<eos>"}), [], tmp_path, DataConfig())
    found.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert type(found) is type(loaded) is kind and loaded.digest == found.digest
    for text in (PROBE, "\n".join(LINES), "    if 12345:\n\t'tis", ""):
        ids = found.encode(text).tolist()
        assert theirs.encode(text).ids == ids == loaded.encode(text).tolist() and found.decode(ids) == text
        half = len(text) // 2  # bytes of half a character join with those of the other
        assert found.decode_bytes(ids[:half]) + found.decode_bytes(ids[half:]) == text.encode()
    assert found.vocab_size == likely_size(str(tmp_path), 1024)
    if kind is BPETokenizer:
        assert loaded.end_of_text == 0 and loaded.encode("<eos>").tolist() != [0]


def test_a_text_in_pieces_has_the_ids_of_its_pieces(tmp_path, monkeypatch):
    found = make_tokenizer(write(tmp_path, sentence_piece()), [], tmp_path, DataConfig())
    whole = found.encode("To be, or not to be")
    monkeypatch.setattr(any_file, "PIECE", 6)
    assert found.decode(found.encode("To be, or not to be")) == found.decode(whole)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (word_piece, "does not give a text back as it was (it loses 'T'"),
        (lambda: byte_level(normalizer=normalizers.NFKC()), "(it loses '²'"),
        (lambda: {"model": {"type": "Unigram", "vocab": []}}, "it has no tokens"),
        (lambda: {"model": {"type": "Unigram"}}, "tokenizers cannot read it"),
        (lambda: {"model": 3}, "is not a tokenizer"),
    ],
    ids=["wordpiece", "nfkc", "empty", "part", "other"],
)
def test_one_that_loses_text_or_is_none_is_refused_in_a_line(content, reason, tmp_path):
    place = write(tmp_path, content())
    with pytest.raises(UserError) as refused:
        check_kind(place)
    assert reason in str(refused.value) and str(refused.value).startswith("data.tokenizer: ")
    assert "\n" not in str(refused.value)


def test_names_and_files_are_told_apart(tmp_path):
    for good in ("byte", "hf:Qwen/Qwen3-0.6B", "hf:a/b@v1.0", "./tokenizer.json", str(tmp_path)):
        assert DataConfig(tokenizer=good).tokenizer == good
    for bad in ("bytes", "hf:Qwen", "hf:a/b/c", "cl100k"):
        with pytest.raises(ValueError, match="should be auto, char"):
            DataConfig(tokenizer=bad)
    with pytest.raises(UserError, match="no such file"):
        check_kind(str(tmp_path / "absent.json"))
    check_kind("hf:a/b")  # no network before there is need
    folders = [token_folder(kind) for kind in ("byte", "/etc/passwd", "../up/tokenizer.json", "hf:a/b", "hf:a-b/c")]
    assert folders[0] == "byte" and len(set(folders)) == 5 and not any("/" in name or ".." in name for name in folders)


def test_the_sample_is_bounded_and_may_be_a_stream(monkeypatch):
    monkeypatch.setattr(making, "MOST_SAMPLED", 100)

    def endless():
        while True:
            yield LINES[0]

    config = DataConfig(bpe_vocab_size=300)
    assert make_tokenizer("bpe", endless(), None, config).vocab_size <= 300
    assert make_tokenizer("char", endless(), None, config).alphabet == "".join(sorted(set(LINES[0])))


def test_published_vocabularies_come_from_a_mirror_by_their_digest(tmp_path, monkeypatch):
    """A small vocabulary in cl100k_base's own format; the real one was read where this was written."""
    ranks = [bytes([byte]) for byte in range(256)] + [b" b", b" be"]
    content = b"".join(base64.b64encode(token) + f" {rank}\n".encode() for rank, token in enumerate(ranks))
    known = published.PUBLISHED["cl100k_base"]
    entry = replace(known.ranks, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content), homes=())
    monkeypatch.setitem(published.PUBLISHED, "cl100k_base", replace(known, ranks=entry))
    mirror = tmp_path / "mirror"
    (mirror / "tiktoken").mkdir(parents=True)
    (mirror / entry.mirror_file).write_bytes(content)
    made = make_tokenizer("cl100k_base", [], tmp_path / "data", DataConfig(mirror=str(mirror)))
    assert made.encode("to be").tolist() == [116, 111, 257]
    assert (made.vocab_size, made.end_of_text) == (likely_size("cl100k_base", 1024), 100_257)
    (mirror / entry.mirror_file).write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"cl100k_base needs a network or data.mirror: .*sha256 differs.*bpe needs"):
        make_tokenizer("cl100k_base", [], tmp_path / "other", DataConfig(mirror=str(mirror)))


def test_sizes_are_known_before_there_is_a_tokenizer():
    """What the plan counts with is what is made."""
    config = DataConfig(bpe_vocab_size=300, chat_tokens=True)
    text = "".join(LINES) * 3
    for kind in ("char", "char_bytes", "byte", "bpe"):
        made = make_tokenizer(kind, [text], None, config)
        assert made.vocab_size == likely_size(kind, 300, len(set(text)))
        if kind != "bpe":  # of which it knows English, not this text
            expected = likely_bytes_per_token(kind, 300, len(text.encode()) / len(text))
            assert len(text.encode()) / len(made.encode(text)) == pytest.approx(expected)
    sizes = [likely_bytes_per_token("bpe", size, 1.0) for size in (257, 300, 1024, 4096, 50_000, 1_000_000)]
    assert sizes == sorted(sizes) and sizes[2] == 2.4


def hub(content):
    """A hub that has one model, one that is gated, and none else."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self._answer()

        def do_GET(self):
            self.wfile.write(self._answer())

        def _answer(self):
            files = {"/a/b/resolve/main/tokenizer.json": content}
            found = files.get(self.path)
            refused = (403, "GatedRepo") if self.path.startswith("/gated/") else (404, "RepoNotFound")
            code, reason = (200, "") if found else (404, "EntryNotFound") if self.path.startswith("/a/b/") else refused
            self.send_response(code)
            self.send_header("X-Error-Code", reason)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", '"one"')
            self.send_header("Content-Length", str(len(found or b"")))
            self.end_headers()
            return found or b""

    return serving(Hub)


def test_a_model_of_a_hub_gives_its_tokenizer_and_the_rest_is_refused_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with hub(json.dumps(byte_level()).encode()) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        assert make_tokenizer("hf:a/b", [], tmp_path, DataConfig()).name == "bpe"
        for name, reason in (
            ("gated/b", f"gated/b is for people who accepted its terms at {address}/gated/b (HF_TOKEN holds"),
            ("a/none", f"{address} has no model a/none, or it is private (HF_TOKEN holds"),
            ("a/b@v2", f"{address}: a/b has no tokenizer.json"),
        ):
            with pytest.raises(UserError) as refused:
                make_tokenizer(f"hf:{name}", [], tmp_path, DataConfig())
            assert f"data.tokenizer: hf:{name}: {reason}" in str(refused.value) and "\n" not in str(refused.value)
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where none answers
        began = time.monotonic()
        with pytest.raises(UserError, match=r"hf:c/d: http://127\.0\.0\.1:9: cannot be reached, and c/d was not down"):
            make_tokenizer("hf:c/d", [], tmp_path, DataConfig())
        assert time.monotonic() - began < 10, "it asks again and again"
        assert make_tokenizer("hf:a/b", [], tmp_path, DataConfig()).name == "bpe", "it has been downloaded before"
        write_to = tmp_path / "mirror/c/d"
        write_to.mkdir(parents=True)
        write(write_to, sentence_piece())
        config = DataConfig(mirror=[str(tmp_path / "mirror"), address])
        assert make_tokenizer("hf:c/d", [], tmp_path, config).name == "tokenizer.json"
        assert make_tokenizer("hf:a/b", [], tmp_path, config).name == "bpe"
