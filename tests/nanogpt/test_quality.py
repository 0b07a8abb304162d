"""Judging models by a text: every token once, the same figures as before, intervals that compare across tokenizers."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.config import DataConfig
from nanogpt.corpus import tokenising
from nanogpt.data.shards import open_split
from nanogpt.evaluation import findings, quality
from nanogpt.evaluation.baselines import KneserNey
from nanogpt.evaluation.block_bootstrap import BlockMean, Blocks, draws
from nanogpt.evaluation.perplexity import evaluate, evaluate_split
from nanogpt.evaluation.quality import JudgedModel
from nanogpt.evaluation.students_t import student_t
from nanogpt.evaluation.token_scores import beginning, in_order, score, split_text
from nanogpt.evaluation.verdict import FIVE_GRAM
from nanogpt.faults import NonFiniteError, UserError
from nanogpt.plots.evaluation import calibration_plot, position_plot, size_plot
from nanogpt.records import from_json, to_json
from nanogpt.results.quality import CalibrationBin, Estimate, ModelScores, ScoreComparison
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.loading import load_tokenizer
from tests.nanogpt.model_case import randomised, small
from tests.nanogpt.training_case import make_data

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    tokenising.tokenise(folder / "text", "bpe", folder / "bpe", DataConfig(bpe_vocab_size=300))
    return folder


def judged(name: str, folder, seed: int = 0, window: int = 16, stride: int = 16, own=None) -> JudgedModel:
    """A model with the tokenizer of `own`, or of the data itself."""
    tokenizer = load_tokenizer(own or folder)
    model = randomised(small(vocab_size=tokenizer.vocab_size), seed)
    return JudgedModel(name, model, tokenizer, folder, window, stride)


# ---- tokens


@settings(max_examples=12, deadline=None)
@given(st.integers(2, 40), st.integers(1, 16), st.data())
def test_every_token_counts_once_with_all_the_context_that_the_stride_promises(length, window, drawn):
    window = min(window, length - 1)
    stride = drawn.draw(st.integers(1, window))
    model = randomised(small(vocab_size=7, n_layer=1))
    tokens = np.random.default_rng(length).integers(7, size=length).astype(np.uint16)
    nats = in_order(score(model, tokens, window, stride))[0]
    assert len(nats) == length - 1
    for place in range(1, length):  # token `place` is predicted from at least window - stride tokens before it
        row = max(0, math.ceil((place - window) / stride))
        context = torch.from_numpy(tokens[row * stride : place].astype(np.int64))[None]
        assert len(context[0]) >= min(place, window - stride + 1)
        with torch.no_grad():
            logits = model(context)[0][0, -1]
        expected = -torch.log_softmax(logits, -1)[int(tokens[place])]
        assert nats[place - 1] == pytest.approx(expected.item(), abs=1e-4)


def test_without_overlap_the_figures_are_those_of_the_evaluation(data):
    case = judged("a", data / "char")
    found = quality.judge([case], "test").models[0]
    whole = evaluate_split(case.model, data / "char", "test", 16)
    assert found.loss.value == pytest.approx(whole.loss, rel=1e-6)
    assert found.perplexity.value == pytest.approx(whole.perplexity, rel=1e-5)
    assert found.bits_per_byte.value == pytest.approx(whole.bits_per_byte, rel=1e-6)
    assert found.tokens == whole.tokens and found.loss.low < found.loss.value < found.loss.high


def test_bytes_of_tokens_add_up_for_every_tokenizer(data):
    texts = [split_text(data / kind, "test", load_tokenizer(data / kind), kind) for kind in ("char", "bpe")]
    assert texts[0].bytes == texts[1].bytes == open_split(data / "char", "test").bytes
    again = split_text(data / "char", "test", load_tokenizer(data / "bpe"), "bpe")  # tokenised anew
    assert again.tokens.tolist() == texts[1].tokens.tolist() and again.starts.tolist() == texts[1].starts.tolist()
    decoded = load_tokenizer(data / "bpe").decode_bytes(texts[1].tokens[:50].tolist())
    assert texts[1].starts[50] == len(decoded)
    first = beginning(texts[1], 200)
    assert first.bytes == 200 and first.starts[-1] < 200 <= texts[1].starts[len(first.starts)]


# ---- intervals


@pytest.mark.parametrize("count", [2, 5, 60])
def test_intervals_of_blocks_hold_the_truth_about_as_often_as_they_say(count):
    generator, sizes, drawn = np.random.default_rng(0), np.full(count, 100.0), draws(count)
    means = [BlockMean(generator.normal(200.0, 30.0, count), sizes, drawn).estimate() for _ in range(100)]
    assert 89 <= sum(mean.low <= 2.0 <= mean.high for mean in means) <= 99


def test_one_block_says_nothing_of_how_often_a_choice_is_right():
    inside = BlockMean(np.array([0.0, 3.0, 0.0]), np.array([0.0, 4.0, 0.0]), draws(3))
    assert inside.estimate(most=1.0) == Estimate(0.75, 0.0, 1.0)


def test_students_t_falls_towards_the_normal_distributions():
    factors = [student_t(freedom) for freedom in range(1, 200)]
    assert factors == sorted(factors, reverse=True) and factors[6] == 2.36 and 1.96 < factors[-1] < 1.98
    assert factors[29] == pytest.approx(2.042, abs=0.01) and factors[48] == pytest.approx(2.010, abs=0.01)


def test_a_difference_is_known_more_exactly_than_either_figure():
    generator, sizes, drawn = np.random.default_rng(1), np.full(50, 10.0), draws(50)
    text = generator.normal(20, 5, 50)  # hard and easy blocks
    one, other = (BlockMean(text + generator.normal(shift, 0.2, 50), sizes, drawn) for shift in (0.0, 0.3))
    assert one.estimate().overlaps(other.estimate())
    difference = other.less(one)
    assert 0 < difference.low < difference.value < difference.high
    assert difference.value == pytest.approx(other.value - one.value)


@settings(max_examples=50, deadline=None)
@given(st.integers(128, 5_000_000))
def test_a_text_is_cut_into_enough_blocks_and_no_byte_is_lost(size):
    blocks = Blocks.of(size)
    assert 2 <= blocks.count <= 1000 and blocks.sizes.sum() == size
    assert size < 6400 or blocks.count >= 50
    starts = np.array([0, size // 2, size - 1])
    assert blocks.sums(starts, np.ones(3)).sum() == 3


# ---- comparing


@pytest.mark.parametrize("estimate, words", [
    (Estimate(0.07, 0.05, 0.08), "0.0700 (0.0500 to 0.0800) more"),
    (Estimate(-0.07, -0.08, -0.05), "0.0700 (0.0500 to 0.0800) fewer"),
    (Estimate(0.01, -0.01, 0.03), "+0.0100 (-0.0100 to +0.0300)"),
])  # fmt: skip
def test_a_difference_is_more_or_fewer_and_has_signs_only_where_it_is_unclear(estimate, words):
    assert quality.as_more(estimate) == words


def test_a_model_is_no_better_than_itself_and_better_than_a_worse_one(data):
    good, same, bad = (judged(name, data / "char") for name in ("good", "same", "bad"))
    with torch.no_grad():
        good.model.head.weight *= 0.1  # nearer to uniform, which is better than random weights
        same.model.head.weight *= 0.1
    even = quality.judge([good, same], "test")
    assert even.winner is None and even.verdict.startswith("No clear winner among good and same")
    assert even.differences[0].bits_per_byte == Estimate(0.0, 0.0, 0.0)
    assert even.verdict.endswith("they predict exactly alike.") and not any(
        line.startswith("Compared with good, same") for line in findings.of_comparison(even)
    )
    clear = quality.judge([bad, good], "test")
    assert clear.winner == "good" and clear.differences[0].model == "bad"
    assert clear.differences[0].bits_per_byte.low > 0
    assert re.fullmatch(r"good is better: bad needs \d.* more bits per byte\.", clear.verdict)
    assert any("bad needs" in line and "more bits" in line for line in findings.of_comparison(clear))


def test_tokenizers_are_compared_on_the_same_bytes(data):
    models = [
        judged("char", data / "char"),
        judged("bpe", data / "bpe"),
        judged("bpe on char", data / "char", own=data / "bpe"),
    ]
    train, test = ((data / "text" / f"{name}.txt").read_bytes() for name in ("train", "test"))
    found = quality.judge(models, "test", baselines=quality.simple_models(train, test))
    char, bpe, anew = found.models
    assert found.bytes == open_split(data / "char", "test").bytes
    assert bpe.bits_per_byte == anew.bits_per_byte and bpe.tokens < char.tokens
    five_gram = next(row for row in found.baselines if row.name == FIVE_GRAM)
    assert five_gram.bits_per_byte.value == pytest.approx(KneserNey(train).bits_per_byte(test), rel=1e-6)
    assert from_json(ScoreComparison, to_json(found)) == found


def test_a_vocabulary_that_lacks_a_few_characters_is_named(data):
    known = "".join(set(load_tokenizer(data / "char").alphabet) - {"w"})
    case = replace(judged("partial", data / "char"), tokenizer=CharTokenizer(known))
    found = quality.judge([case], "test")
    test = (data / "text" / "test.txt").read_text()
    assert found.models[0].unknown == test.count("w") > 0 and found.bytes == len(test)
    assert any("are outside the vocabulary of partial" in line for line in findings.of_comparison(found))


def test_a_uniform_model_is_calibrated_and_a_loud_one_is_too_sure(data):
    quiet, loud = judged("quiet", data / "char"), judged("loud", data / "char")
    with torch.no_grad():
        quiet.model.head.weight.zero_()
        loud.model.head.weight *= 30
    flat, sure = quality.judge([quiet, loud], "test").models
    size = quiet.tokenizer.vocab_size
    assert [row.confidence for row in flat.calibration] == [pytest.approx(1 / size, rel=1e-4)]
    assert flat.calibration_error < 0.1 and sure.calibration_error > 0.5
    assert sum(row.share for row in sure.calibration) == pytest.approx(1)
    assert any(
        "loud gives its first choice a probability of" in line and "too sure" in line
        for line in findings.of_comparison(_alone(sure))
    )


def test_a_model_is_too_sure_only_where_that_is_more_than_chance(data):
    found = quality.judge([judged("a", data / "char")], "test").models[0]

    def sentence(low: float, high: float) -> str:
        row = CalibrationBin(0.5, Estimate(0.45, low, high), 1.0)
        scores = replace(found, accuracy=row.accuracy, calibration_error=0.05, calibration=[row])
        return findings.of_comparison(_alone(scores))[1]

    assert "the model is too sure" in sentence(0.42, 0.48)
    assert "in no clear direction (off by 5.0 points" in sentence(0.3, 0.6)


def test_context_is_said_to_help_only_where_it_does(data):
    case = judged("a", data / "char")
    with torch.no_grad():
        case.model.head.weight.zero_()  # every token costs the same
    (sentence,) = findings.of_comparison(_alone(quality.judge([case], "test").models[0]))[-1:]
    assert sentence.startswith("Context does not clearly help: ") and "gains nothing that is clear" in sentence


def _alone(model: ModelScores) -> ScoreComparison:
    return ScoreComparison("test", 1000, 10, [model], [], [], model.model, "")


def test_loss_by_position_is_the_mean_of_each_place_in_the_window(data):
    case = judged("a", data / "char")
    rows = quality.judge([case], "test").models[0].by_position
    assert [(row.first, row.last) for row in rows] == [(0, 0), (1, 1), (2, 3), (4, 7), (8, 15)]
    tokens = open_split(data / "char", "test").tokens
    first = np.concatenate([[tokens[start], tokens[start + 1]] for start in range(0, len(tokens) - 1, 16)])
    at_first = [evaluate(case.model, first[place : place + 2], 1, 2).loss for place in range(0, len(first), 2)]
    assert rows[0].loss.value == pytest.approx(np.mean(at_first), rel=1e-5)
    gain = rows[1].gain
    assert gain.value == pytest.approx(rows[0].loss.value - rows[1].loss.value) and rows[0].gain is None


# ---- figures


def test_the_same_figures_are_drawn_from_the_same_numbers(data, tmp_path):
    case = judged("<b>$x$", data / "char")
    found = quality.judge([case], "test")
    for plot, drawn in (
        (calibration_plot, found.models),
        (position_plot, found.models),
        (position_plot, [replace(found.models[0], by_position=[])]),
        (size_plot, found),
    ):
        once, again = (plot(drawn, tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
        assert once == again and once.startswith(b"<?xml")


def test_no_model_is_missing_from_a_figure(data, tmp_path):
    scores = quality.judge([judged("a", data / "char")], "test").models[0]
    many = [replace(scores, model=f"model{number}") for number in range(9)]
    for plot in (calibration_plot, position_plot):
        drawn = plot(many, tmp_path / "many.svg").read_text()
        assert all(model.model in drawn for model in many)


# ---- what cannot be judged


def test_what_cannot_be_judged_is_named(data):
    case = judged("a", data / "char")
    other = CharTokenizer("中文")
    stranger = JudgedModel("stranger", randomised(small(vocab_size=3)), other, data / "char", 16, 16)
    with pytest.raises(UserError, match="characters of its test split are outside the vocabulary of stranger"):
        quality.judge([stranger], "test")
    with torch.no_grad():
        case.model.head.weight[:] = torch.nan
    with pytest.raises(NonFiniteError, match="a: the loss is NaN"):
        quality.judge([case], "test")
    with pytest.raises(UserError, match="a: the text has 10 tokens; a window of 16 needs 17"):
        quality.judge([case], "test", most_bytes=10)
    with pytest.raises(UserError, match="at least 128 are needed"):
        Blocks.of(100)
