"""Fingerprints, families of near duplicates, and the split: the same for the same texts, and no family torn apart."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.config import DataConfig
from nanogpt.corpus import duplicates
from nanogpt.corpus.duplicates import ROWS, Families, repeated
from nanogpt.corpus.fingerprints import NO_SLOT, SLOTS, Fingerprints, fingerprints
from nanogpt.corpus.splitting import (
    FATES,
    SPLITS,
    TEST,
    TRAIN,
    VAL,
    HeldOut,
    by_digest,
    by_place,
    divide,
    like_published,
)
from nanogpt.faults import UserError

pytestmark = pytest.mark.fast
WORDS = [f"{first}{second}" for first in "Kdlmnprst" for second in ("a", "eÉ", "io", "ou9", "uñ")]
CONFIG = DataConfig(val_fraction=0.3, test_fraction=0.2)


def text_of(numbers: random.Random, length: int = 60) -> str:
    return " ".join(numbers.choices(WORDS, k=length))


def edited(text: str, numbers: random.Random, share: float) -> str:
    """With `share` of the words replaced, other punctuation and case."""
    words = text.split()
    for place in numbers.sample(range(len(words)), round(share * len(words))):
        words[place] = "instead"
    return ", ".join(words).upper()


def corpus(numbers: random.Random, documents: int = 160) -> list[str]:
    """Distinct texts, and copies and edited ones of some, chains of them among these."""
    texts = [text_of(numbers) for _ in range(documents)]
    texts += [edited(numbers.choice(texts), numbers, numbers.choice([0, 0.02, 0.03, 0.2])) for _ in range(60)]
    texts += [edited(text, numbers, 0.03) for text in texts[-60:]]
    return texts + numbers.choices(texts, k=20) + ["four words and no", "four words and no", "other four and no"]


def phrases(text: str) -> set[tuple[str, ...]]:
    words = text.lower().replace(",", "").split()
    return set(zip(*(words[first:] for first in range(5)), strict=False))


def similarity(one: str, other: str) -> float:
    return len(phrases(one) & phrases(other)) / len(phrases(one) | phrases(other))


def outcome(texts: list[str], config: DataConfig = CONFIG, prints: Fingerprints | None = None) -> dict[str, str]:
    """{text that is kept: its split}."""
    division = divide(prints or fingerprints(texts), np.array([len(text) for text in texts]), config)
    kept = [place for place, fate in enumerate(division.fates) if FATES[fate] == "kept"]
    return {texts[place]: SPLITS[division.splits[place]] for place in kept}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """With near duplicates in two families, which only the comparison across the wall brings together."""
    return corpus(random.Random(24))


def test_sketches_agree_in_the_share_of_phrases_that_texts_have_in_common():
    numbers = random.Random(1)
    whole = text_of(numbers, 800)
    others = [edited(whole, numbers, share) for share in (0, 0.01, 0.03, 0.06, 0.1, 0.2)]
    first, *sketches = fingerprints([whole, *others]).sketches
    for sketch, other in zip(sketches, others, strict=True):
        true = similarity(whole, other)
        assert np.mean(sketch == first) == pytest.approx(true, abs=4 * (true * (1 - true) / SLOTS) ** 0.5 + 1e-3)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(
        st.text(max_size=80) | st.sampled_from(["日本語の文章です。" * 3, "one two three four five six", "\n\n", ""])
    )
)
def test_a_fingerprint_is_of_its_text_alone(texts):
    together, each = fingerprints(texts), [fingerprints([text]) for text in texts]
    for place, alone in enumerate(each):
        assert (together.digests[place] == alone.digests[0]).all()
        assert (together.sketches[place] == alone.sketches[0]).all()
        words = len("".join(c if c.isalnum() else " " for c in texts[place].lower()).split())
        assert words < 5 or (alone.sketches[0] != NO_SLOT).any()


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["drop", "together", "ignore"]))
def test_the_order_of_documents_changes_nothing(seed, near_duplicates):
    numbers = random.Random(seed)
    texts = corpus(numbers)
    config = DataConfig(val_fraction=0.3, test_fraction=0.2, near_duplicates=near_duplicates)
    kept = outcome(texts, config)
    assert len(kept) < len(set(texts)) if near_duplicates == "drop" else kept.keys() == set(texts)
    numbers.shuffle(texts)
    assert outcome(texts, config) == kept


@pytest.mark.parametrize("near_duplicates", ["drop", "together"])
def test_no_near_duplicate_crosses_the_wall(texts, near_duplicates):
    config = DataConfig(val_fraction=0.3, test_fraction=0.2, near_duplicates=near_duplicates)
    kept = outcome(texts, config)
    sketches = fingerprints(list(kept)).sketches
    agree = sketches[:, None] == sketches[None]  # (K, K, SLOTS)
    bands = agree[:, :, : SLOTS // ROWS * ROWS].reshape(len(kept), len(kept), -1, ROWS).all(axis=3).any(axis=2)
    is_near = bands & (agree.mean(axis=2) >= 0.8) & (sketches != NO_SLOT).any(axis=1)
    splits = np.array(list(kept.values()))
    assert not (is_near & (splits[:, None] != splits[None])).any()
    assert near_duplicates == "drop" or is_near.sum() > len(kept)  # there were some


def test_near_duplicates_are_found_and_others_left():
    numbers = random.Random(2)
    originals = [text_of(numbers, 200) for _ in range(100)]
    near = [edited(text, numbers, 0.01) for text in originals]
    unlike = [edited(text, numbers, 0.1) for text in originals]
    assert min(map(similarity, originals, near)) > 0.88 and max(map(similarity, originals, unlike)) < 0.6
    kept = outcome([*originals, *near, *unlike])
    assert [len(kept.keys() & {one, other}) for one, other in zip(originals, near, strict=True)] == [1] * 100
    assert kept.keys() >= set(unlike)


def test_training_text_like_what_a_publisher_held_out_is_not_kept():
    numbers = random.Random(3)
    held_out = [text_of(numbers, 200) for _ in range(20)] + ["too short"]
    others = [text_of(numbers, 200) for _ in range(20)]
    same, near = [*held_out[:5], "too short"], [edited(text, numbers, 0.005) for text in held_out[10:15]]
    prints = fingerprints([*others, *same, *near, *held_out])
    published = np.array([TRAIN] * 31 + [VAL] * 10 + [TEST] * 11, np.uint8)
    fates = [FATES[fate] for fate in like_published(prints, published, CONFIG)]
    assert fates == ["kept"] * 20 + ["duplicate"] * 6 + ["near_duplicate"] * 5 + ["kept"] * 21
    ignoring = like_published(prints, published, CONFIG.model_copy(update={"near_duplicates": "ignore"}))
    assert [FATES[fate] for fate in ignoring] == ["kept"] * 20 + ["duplicate"] * 6 + ["kept"] * 26


def test_what_would_have_crossed_is_counted(texts):
    prints = fingerprints(texts)
    lengths = np.array([len(text) for text in texts])
    kept, ignored = (
        divide(prints, lengths, CONFIG.model_copy(update={"near_duplicates": choice}))
        for choice in ("together", "ignore")
    )
    moved = ((kept.splits == TRAIN) != (ignored.splits == TRAIN)) & (ignored.fates == 0)
    assert kept.crossings == moved.sum() > 0 == ignored.crossings


def test_the_same_from_the_disk_in_parts_that_fit_into_memory(texts, monkeypatch, tmp_path):
    whole, prints = outcome(texts), fingerprints(texts)
    for name, array in vars(prints).items():
        np.save(tmp_path / name, array)
    monkeypatch.setattr(duplicates, "_MOST_AT_ONCE", 50)
    monkeypatch.setattr(duplicates, "_BLOCK", 7)
    mapped = Fingerprints(*(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in vars(prints)))
    assert outcome(texts, prints=mapped) == whole


def test_the_first_of_equal_documents_is_kept():
    prints = fingerprints(["b", "a", "b", "a", "c"], sketched=False)
    assert repeated(prints.digests).tolist() == [False, False, True, True, False]
    assert Families(prints, 0.8, np.ones(5, bool)).roots().tolist() == [0, 1, 2, 3, 4]


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=20), st.floats(0.001, 0.49), st.floats(0.001, 0.49), st.floats(0, 1)
)
def test_a_larger_corpus_moves_no_document_between_val_and_test(units, val, test, factor):
    units = np.array(units, np.uint64)
    small, large = by_digest(units, HeldOut(val, test)), by_digest(units, HeldOut(val * factor, test * factor))
    assert ((large == small) | (large == TRAIN)).all()


def test_shares_by_digest():
    prints = fingerprints([str(number) for number in range(4000)], sketched=False)
    counts = np.bincount(by_digest(prints.digests[:, 0], HeldOut(0.1, 0.05)))
    assert counts.tolist() == pytest.approx([3400, 400, 200], abs=60)
    assert HeldOut.of(10**9, DataConfig()) == HeldOut((4 << 20) / 10**9, (4 << 20) / 10**9)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=3).filter(lambda lengths: sum(map(bool, lengths)) >= 3))
def test_parts_of_one_text_are_cut_in_their_order(lengths):
    splits = by_place(np.array(lengths), HeldOut(0.05, 0.05))
    present = [split for split, length in zip(splits, lengths, strict=True) if length]
    assert present == sorted(present) and set(present) == {TRAIN, VAL, TEST}


def test_few_long_documents_are_cut_near_their_shares():
    splits = by_place(np.full(200, 5000), HeldOut(0.05, 0.1))
    assert np.bincount(splits).tolist() == [170, 10, 20]
    with pytest.raises(UserError, match="2 texts are left of it; at least 3 are needed for train, val, test"):
        outcome(["one text", "another text"])
