"""A model of each kind of tokenizer: prepared, trained, exported, and opened by others with the same ids."""

import pytest
import tokenizers

from nanogpt.config import DataConfig
from nanogpt.corpus import preparation, tokenising
from nanogpt.data.shards import open_split, verify
from nanogpt.export import formats
from nanogpt.faults import UserError
from nanogpt.model.gpt import GPT
from nanogpt.tokenizers.any_file import LibraryTokenizer
from nanogpt.training.trainer import train
from nanogpt.weights.folders import model_of
from nanogpt.weights.trained_folder import TrainedFolder
from tests.nanogpt import test_making
from tests.nanogpt.training_case import TEXT, tiny

UNSEEN = "Ünseen: «字» 🙂 <|endoftext|>"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    preparation.prepare([folder / "text.txt"], folder, DataConfig())
    return folder


@pytest.mark.parametrize("kind", ["char_bytes", "byte", "bpe", "tokenizer.json"])
def test_each_kind_trains_and_is_exported(kind, text, tmp_path):
    if kind == "tokenizer.json":
        kind = test_making.write(tmp_path / "theirs", test_making.sentence_piece())
    data = DataConfig(tokenizer=kind, bpe_vocab_size=300, chat_tokens=True)
    manifest = tokenising.tokenise(text, kind, tmp_path / "data", data)
    assert verify(tmp_path / "data").tokenizer == manifest.tokenizer
    config = tiny(max_iters=4, warmup_iters=1)
    assert train(config, tmp_path / "data", tmp_path / "model").status == "finished"
    trained = TrainedFolder(tmp_path / "model")
    tokenizer, model = trained.tokenizer(), model_of(trained)
    assert isinstance(model, GPT) and model.config.vocab_size == tokenizer.vocab_size
    held_out = (text / "val.txt").read_text(encoding="utf-8")
    assert tokenizer.decode(open_split(tmp_path / "data", "val").tokens.tolist()) == held_out
    formats.write_model(model, tokenizer, formats.FORMATS["hf"], tmp_path / "hf")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "hf/tokenizer.json"))
    for words in (held_out, UNSEEN.replace("<|endoftext|>", "")):
        assert theirs.encode(words).ids == tokenizer.encode(words).tolist()
        assert tokenizer.decode(tokenizer.encode(words)) == words
    assert tokenizer.end_of_text not in tokenizer.encode(UNSEEN)
    if isinstance(tokenizer, LibraryTokenizer):
        with pytest.raises(UserError, match="is neither characters nor byte pairs over bytes"):
            formats.require_fitting([formats.FORMATS["gguf"]], model.config, tokenizer)
