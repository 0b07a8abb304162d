"""What a model writes: copies of the training text are found, variety is measured, greedy samples are compared."""

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.evaluation import findings, greedy_samples, writing
from nanogpt.evaluation.coherence import Judge
from nanogpt.evaluation.training_spans import TrainingSpans
from nanogpt.faults import UserError
from nanogpt.inference.engine import Engine
from nanogpt.tokenizers.characters import CharTokenizer
from tests.nanogpt.model_case import randomised, small

pytestmark = pytest.mark.fast

NAMES = ["sheep", "goats", "hill", "river", "stone", "wolf", "shepherd", "cloud", "meadow", "field", "gate", "path"]
CHOOSE = random.Random(0)
LINES = [" ".join(CHOOSE.choices(NAMES, k=8)) + f" {number * 7919 % 1000}.\n" for number in range(600)]
TRAIN, HELD_OUT = "".join(LINES[:500]), "".join(LINES[500:])
LETTERS = st.text("ab日\n", max_size=40)
REPEATS = st.builds(
    "".join, st.lists(st.builds(str.__mul__, st.text("ab日", max_size=3), st.integers(0, 20)), max_size=3)
)
SPELT = LETTERS | REPEATS


@settings(max_examples=60, deadline=None)
@given(SPELT, st.lists(SPELT, max_size=3))
def test_spans_are_found_as_a_search_finds_them(train, texts):
    spans = TrainingSpans(train)
    for text, found in zip(texts, spans.longest_in_each(texts), strict=True):
        pieces = {text[start:end] for start in range(len(text)) for end in range(start + 1, len(text) + 1)}
        assert len(found) == max((len(piece) for piece in pieces if piece in train), default=0)
        assert found in text and found in train
    for length, held in spans.held_in(texts):
        places = [[start for start in range(len(text) - length + 1) if text[start : start + length] in train]
                  for text in texts]  # fmt: skip
        assert [found.tolist() for found in held] == places


@pytest.mark.parametrize("text, references, expected", [
    ("the cat sat on the mat", ["the cat is on the mat", "there is a cat on the mat"], 0.25406637),
    ("a b c d e f g", ["a b x d e f g h i", "c d e f"], 0.53137469),
])  # fmt: skip
def test_bleu_is_sacrebleus(text, references, expected):
    """sacrebleu 2.6.0: sentence_bleu(..., smooth_method="floor", smooth_value=0.1, tokenize="none") / 100."""
    assert writing.bleu(text.split(), [words.split() for words in references]) == pytest.approx(expected, abs=1e-7)


def test_variety_is_measured():
    one, other = list("abcdef"), list("abcdxy")
    assert writing.distinct([one, one], 2) == 0.5 and writing.distinct([one, other], 1) == 8 / 12
    assert writing.self_bleu([one, one, one]) == pytest.approx(1) and writing.self_bleu([one]) == 0
    assert writing.self_bleu([one, other]) < 0.8 and writing.distinct([["a"]], 2) == 0


class Reciter:
    """Writes what the training text has after line 100, or noise."""

    def __init__(self, recites: bool):
        self.recites, self.tokenizer = recites, CharTokenizer(TRAIN)

    def complete_batch(self, prompts, seeds, temperature, max_new_tokens):
        assert max_new_tokens == writing.CHARACTERS and temperature == writing.TEMPERATURE
        assert all(prompt in HELD_OUT for prompt in prompts) and len(set(seeds)) == len(prompts)
        if self.recites:
            return [TRAIN[5000 + 450 * place :][:max_new_tokens] for place in range(len(prompts))]
        return ["".join(random.Random(seed).choices("abcdefgh ", k=max_new_tokens)) for seed in seeds]


def test_memorising_shows_and_noise_is_not_coherent():
    judge = Judge(TRAIN, HELD_OUT)
    recited = writing.judge_writing("parrot", Reciter(True), judge, HELD_OUT, 5)
    assert recited.samples.longest_copy == 400 and recited.samples.copied in TRAIN
    assert recited.samples.seen[-1].share == 1 and recited.held_out.seen[-1].share < 0.1
    assert "the model recites" in findings.of_writing(recited)[-1]
    noise = writing.judge_writing("noise", Reciter(False), judge, HELD_OUT, 5)
    assert noise.samples.coherent == recited.samples.coherent == 0 < noise.held_out.coherent
    assert "no sign of memorising" in findings.of_writing(noise)[-1]
    with pytest.raises(UserError, match=r"prompts for 50 samples, .* at most"):
        writing.judge_writing("noise", Reciter(False), judge, HELD_OUT, 50)


def test_greedy_samples_tell_another_model_from_the_same(tmp_path):
    tokenizer = CharTokenizer(TRAIN)
    model = randomised(small(vocab_size=tokenizer.vocab_size))
    file = tmp_path / "kept.json"
    kept = greedy_samples.write("m", "digest", Engine.of_model(model, tokenizer), ["sheep ", "goats "], tokens=20)
    greedy_samples.save(kept, file)
    assert greedy_samples.load(file) == kept and all(len(sample.text) == 20 for sample in kept.samples)
    assert greedy_samples.differences(Engine.of_model(model, tokenizer), kept) == []
    with torch.no_grad():
        model.blocks[0].attention.qkv.weight *= -1
    found = greedy_samples.differences(Engine.of_model(model, tokenizer), kept)
    assert found and found[0].prompt == "sheep " and found[0].kept[0] != found[0].found[0]
    assert f"at character {found[0].place}: kept {found[0].kept!r}, found {found[0].found!r}" in str(found[0])
    assert found[0].margin == kept.samples[0].pieces[found[0].place].margin > 0
    file.write_text("[]")
    with pytest.raises(UserError, match="holds no samples of --save-samples"):
        greedy_samples.load(file)
    for damaged in (replace(kept, samples=[]), replace(kept, tokens=0), replace(kept, tokens=10**12)):
        greedy_samples.save(damaged, file)  # nothing compared is not the same, and 10^12 tokens would never end
        with pytest.raises(UserError, match=r"holds no samples of --save-samples \(found \d samples of [\d,]+ tokens"):
            greedy_samples.load(file)
