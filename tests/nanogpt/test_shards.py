"""Shards: what was tokenised is read back, and a single wrong bit is noticed."""

from dataclasses import replace

import numpy as np
import pytest

from nanogpt import durable
from nanogpt.config import DataConfig
from nanogpt.corpus import tokenising
from nanogpt.corpus.preparation import prepare
from nanogpt.data import shards
from nanogpt.data.shard_file import write_shard
from nanogpt.data.texts import read_split
from nanogpt.faults import CorruptFileError, UserError
from nanogpt.records import to_json
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.loading import load_tokenizer

pytestmark = pytest.mark.fast
TEXT = "".join(f"{number} bottles of béer on the wall;\n" for number in range(300))


@pytest.fixture
def text_folder(tmp_path):
    (tmp_path / "own.txt").write_text(TEXT, encoding="utf-8")
    prepare([tmp_path / "own.txt"], tmp_path / "text", DataConfig())
    return tmp_path / "text"


@pytest.fixture
def data(tmp_path, text_folder):
    tokenising.tokenise(text_folder, "char", tmp_path / "char", DataConfig())
    return tmp_path / "char"


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_every_split_comes_back_as_its_text(tmp_path, text_folder, kind):
    folder = tmp_path / kind
    manifest = tokenising.tokenise(text_folder, kind, folder, DataConfig(bpe_vocab_size=300))
    tokenizer = load_tokenizer(folder)
    for name in ("train", "val", "test"):
        split = shards.open_split(folder, name)
        text = read_split(text_folder, name)
        assert tokenizer.decode(split.tokens) == text
        assert (split.bytes, split.characters) == (len(text.encode()), len(text))
        assert split.vocab_size == tokenizer.vocab_size == manifest.tokenizer.vocab_size
    assert shards.verify(folder) == manifest == shards.read_manifest(folder)
    statistics = manifest.statistics
    assert statistics.tokens == sum(statistics.tokens_per_split.values())
    assert statistics.vocabulary_used <= statistics.vocab_size
    assert durable.read_json(folder / "statistics.json") == durable.read_json(folder / "manifest.json")["statistics"]


def test_the_same_text_gives_the_same_files(tmp_path, text_folder):
    one, other = (tokenising.tokenise(text_folder, "bpe", tmp_path / name, DataConfig()) for name in "ab")
    assert one == other


def test_bpe_learns_from_train_alone(tmp_path, text_folder):
    before = tokenising.tokenise(text_folder, "bpe", tmp_path / "a", DataConfig())
    (text_folder / "test.txt").write_text("zebra quagga okapi " * 40)
    after = tokenising.tokenise(text_folder, "bpe", tmp_path / "b", DataConfig())
    assert before.tokenizer == after.tokenizer


@pytest.mark.parametrize("name", ["train.bin", "val.bin", "tokenizer.json", "statistics.json"])
@pytest.mark.parametrize("where", [0, 0.5, 1])
def test_one_flipped_bit_is_noticed(data, name, where):
    content = bytearray((data / name).read_bytes())
    content[int(where * (len(content) - 1))] ^= 1
    (data / name).write_bytes(content)
    with pytest.raises(CorruptFileError, match=name):
        shards.verify(data)


@pytest.mark.parametrize("left", [0, 40, -1, -2])
def test_truncation_is_noticed_on_opening(data, left):
    (data / "train.bin").write_bytes((data / "train.bin").read_bytes()[:left])
    with pytest.raises(CorruptFileError, match=r"train\.bin"):
        shards.open_split(data, "train")
    with pytest.raises(CorruptFileError, match=r"train\.bin"):
        shards.verify(data)


def test_a_missing_file_and_a_foreign_split_are_noticed(tmp_path, text_folder, data):
    tokenising.tokenise(text_folder, "bpe", tmp_path / "bpe", DataConfig(bpe_vocab_size=300))
    (data / "val.bin").write_bytes((tmp_path / "bpe" / "val.bin").read_bytes())
    with pytest.raises(CorruptFileError, match="not made together"):
        shards.open_split(data, "val")
    (data / "val.bin").unlink()
    with pytest.raises(CorruptFileError, match="missing"):
        shards.verify(data)


def test_a_folder_without_manifest_holds_no_data(data):
    (data / "manifest.json").unlink()
    with pytest.raises(UserError, match="not a data folder"):
        shards.open_split(data, "train")


def test_a_manifest_that_is_nested_too_deeply_is_corrupt(tmp_path):
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(CorruptFileError, match="nested too deeply"):
        shards.read_manifest(tmp_path)


@pytest.mark.parametrize("content", ['{"step": 500, "facts": {}, "files": {}}', "[]"])
def test_a_folder_of_something_else_holds_no_data(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match="such as a checkpoint"):
        shards.open_split(tmp_path, "train")
    with pytest.raises(UserError, match=r"manifest\.json: is a file; expected a folder of tokenised data"):
        shards.open_split(tmp_path / "manifest.json", "train")


def test_ids_beyond_sixteen_bits(tmp_path):
    tokenizer = CharTokenizer(map(chr, range(0x10000, 0x10000 + 70_000)))
    tokens = np.array([0, 65_536, 70_000], dtype=np.uint32)
    path = shards.write_split(tmp_path, "train", tokens, tokenizer)
    assert path.stat().st_size == 64 + 3 * 4
    with pytest.raises(ValueError, match="outside the vocabulary"):
        shards.write_split(tmp_path, "val", tokens + 1, tokenizer)


def test_unknown_tokenizer_is_a_mistake(tmp_path, text_folder):
    with pytest.raises(UserError, match='did you mean "char"'):
        tokenising.tokenise(text_folder, "chars", tmp_path / "x", DataConfig())


def test_a_block_longer_than_the_data_is_a_mistake(data):
    tokens = shards.read_manifest(data).splits["train"].tokens
    shards.check_fits(tokens, tokens - 1)
    with pytest.raises(UserError, match=rf"block_size: found {tokens}"):
        shards.check_fits(tokens, tokens)


def in_shards(folder, count):
    """The data folder `folder` with its training split in `count` shards."""
    manifest, train = shards.read_manifest(folder), shards.open_split(folder, "train").tokens
    entries, files = [], dict(manifest.files)
    del files["train.bin"]
    for number, part in enumerate(np.array_split(np.asarray(train), count)):
        name = f"train-{number:05d}.bin"
        write_shard(folder / name, part, manifest.tokenizer.vocab_size, manifest.tokenizer.digest)
        entries.append(shards.ShardEntry(name, len(part)))
        files[name] = shards.FileDigest((folder / name).stat().st_size, durable.sha256_file(folder / name))
    (folder / "train.bin").unlink()
    changed = replace(manifest, files=files, shards={"train": entries}, plan="of this test")
    durable.write_json(folder / "manifest.json", to_json(changed, sparse=True))
    return entries


def test_a_split_in_several_shards_is_the_same_split(data):
    before = np.asarray(shards.open_split(data, "train").tokens)
    in_shards(data, 3)
    split = shards.open_split(data, "train")
    assert np.array_equal(split.tokens, before) and split.tokens[5:-5].tolist() == before[5:-5].tolist()
    assert shards.verify(data).plan == shards.identity(data) == "of this test"
    durable.write_bytes(data / "train-00001.bin", (data / "train-00000.bin").read_bytes())
    with pytest.raises(CorruptFileError, match=r"train-00001\.bin"):
        shards.verify(data)
