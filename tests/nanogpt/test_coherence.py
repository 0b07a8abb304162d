"""Coherence: real text passes; noise, loops and copies are distinguished, each by its own figure."""

import random

import pytest

from nanogpt.evaluation.coherence import Judge

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def play(shared_data):
    return (shared_data / "tinyshakespeare.txt").read_text()


@pytest.fixture(scope="module")
def judge(play):
    return Judge(play[:400_000], play[-100_000:])


@pytest.mark.parametrize("start", [-90_000, -50_000, -20_000])
def test_real_text_passes(judge, play, start):
    verdict = judge.judge(play[start : start + 600])
    assert verdict.coherent and verdict.reasons == []
    assert verdict.reference == judge.reference


@pytest.mark.parametrize("seed", range(3))
def test_random_characters_fail_by_words_and_surprise(judge, play, seed):
    verdict = judge.judge("".join(random.Random(seed).choices(play, k=500)))
    assert not verdict.coherent
    assert any("known" in reason for reason in verdict.reasons)
    assert any("bits per byte" in reason for reason in verdict.reasons)


def test_a_verbatim_copy_fails_by_copying_alone(judge, play):
    verdict = judge.judge(play[5000:5500])
    assert len(verdict.reasons) == 1 and "500 characters in a row are copied" in verdict.reasons[0]
    assert verdict.figures.longest_copy == 500


def test_a_short_quotation_is_no_copy(judge, play):
    assert judge.judge(play[-50_000:-49_700] + play[5000:5060] + play[-40_000:-39_700]).coherent


def test_a_loop_fails_by_repetition(judge):
    verdict = judge.judge("What is the matter with the king? " * 15)
    assert any("repeats itself" in reason for reason in verdict.reasons)


@pytest.mark.parametrize("sample", ["", "To be.", "\n" * 50])
def test_too_little_is_not_judged_coherent(judge, sample):
    verdict = judge.judge(sample)
    assert not verdict.coherent and "too few" in verdict.reasons[0]


def test_numbers_without_words(judge):
    assert judge.measure("1 2 3 " * 40).known_words == 0


def test_other_scripts():
    text = "".join(
        f"Глава {number}. Все счастливые семьи похожи друг на друга, номер {number * 7}.\n" for number in range(400)
    )
    judge = Judge(text[:20_000], text[-3000:])
    assert judge.reference.known_words > 0.9


def test_empty_texts_are_refused():
    with pytest.raises(ValueError, match="hold something"):
        Judge("", "x")
