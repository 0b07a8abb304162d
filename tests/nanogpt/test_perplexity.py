"""The measure of a model is what a plain loop over the split gives."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nanogpt.config import DataConfig
from nanogpt.corpus import preparation, tokenising
from nanogpt.data import shards
from nanogpt.evaluation.perplexity import evaluate, evaluate_split, nanogpt_measure
from nanogpt.faults import UserError

pytestmark = pytest.mark.fast
VOCABULARY = 17


class Bigram(torch.nn.Module):
    """Predicts from the last token and its place in the window; dropout shows whether it was left training."""

    def __init__(self, vocab_size=VOCABULARY):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.table = torch.nn.Parameter(torch.randn(vocab_size, vocab_size, generator=generator))
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, tokens, targets):
        places = torch.arange(tokens.shape[1]) / 10
        logits = self.dropout(self.table[tokens] * (1 + places[:, None]))
        return None, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


def plain_loop(model, tokens, window):
    """Nats over all predictions, one window at a time, in float64."""
    total = 0.0
    for start in range(0, len(tokens) - 1, window):
        piece = torch.tensor(tokens[start : start + window + 1].astype(np.int64))
        places = torch.arange(len(piece) - 1) / 10
        logits = model.table.detach().double()[piece[:-1]] * (1 + places[:, None])
        total -= F.log_softmax(logits, dim=1).gather(1, piece[1:, None]).sum().item()
    return total


@pytest.mark.parametrize("length, window, batch_size", [(2, 8, 4), (9, 8, 4), (100, 8, 4), (97, 8, 5), (50, 64, None)])
def test_agrees_with_a_plain_loop(length, window, batch_size):
    tokens = np.random.default_rng(length).integers(0, VOCABULARY, length).astype(np.uint16)
    model = Bigram().train()
    result = evaluate(model, tokens, window, bytes_in_split=3 * length, batch_size=batch_size)
    nats = plain_loop(model, tokens, window)
    assert result.tokens == length - 1 and model.training
    assert result.loss == pytest.approx(nats / (length - 1), rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    assert result.bits_per_byte == pytest.approx(result.loss / math.log(2) / 3)


def test_nothing_to_predict_is_a_mistake():
    with pytest.raises(UserError, match="at least 2 tokens"):
        evaluate(Bigram(), np.zeros(1, np.uint16), 8, 1)


def test_splits_and_nanogpts_measure(tmp_path):
    (tmp_path / "own.txt").write_text("".join(f"{number} green bottles\n" for number in range(300)))
    preparation.prepare([tmp_path / "own.txt"], tmp_path / "text", DataConfig())
    for kind in ("char", "bpe"):
        tokenising.tokenise(tmp_path / "text", kind, tmp_path / kind, DataConfig(bpe_vocab_size=300))
    val, test = (shards.open_split(tmp_path / "char", split) for split in ("val", "test"))
    model = Bigram(val.vocab_size)
    nats = sum(plain_loop(model, split.tokens, 64) for split in (val, test))
    predicted = len(val.tokens) + len(test.tokens) - 2  # the first of each has nothing before it
    assert nanogpt_measure(model, tmp_path / "char") == pytest.approx(nats / predicted, rel=1e-5)
    assert evaluate_split(model, tmp_path / "char", "test", 16).tokens == len(test.tokens) - 1
    with pytest.raises(UserError, match="of characters"):
        nanogpt_measure(model, tmp_path / "bpe")
