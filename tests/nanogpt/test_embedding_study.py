"""Neighbours and map of the tokens are those of the table, and the sentences count what is there."""

import json

import numpy as np
import pytest
import torch

from nanogpt.cli import main
from nanogpt.study.embeddings import kind_of, principal_plane, study_embeddings
from nanogpt.study.subject import Subject
from nanogpt.study.summary import study_trained
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.training.trainer import train
from tests.nanogpt.model_case import randomised, small
from tests.nanogpt.trained_case import train_into
from tests.nanogpt.training_case import make_data, tiny

pytestmark = pytest.mark.fast

ALPHABET = CharTokenizer("aeiouAEIOUbcdBCD")


def with_twins() -> Subject:
    """Every capital lies where its lower case does, and the vowels lie together."""
    network = randomised(small(vocab_size=ALPHABET.vocab_size))
    table, place = network.token_embedding.weight, ALPHABET.alphabet.index
    noise = torch.randn(ALPHABET.vocab_size, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for vowel in "aeiou":
            table[place(vowel)] = 3.0 + 0.3 * noise[place(vowel)]
        for capital in filter(str.isupper, ALPHABET.alphabet):
            table[place(capital)] = table[place(capital.lower())] + 0.01 * noise[place(capital)]
    return Subject("twins", network, ALPHABET)


def test_the_sentences_say_what_lies_together():
    study = study_embeddings(with_twins(), "abcdeiou" * 3 + "ABCDEIOU")
    assert [token.token for token in study.tokens[:8]] == list("abcdeiou")
    assert all(token.nearest[0][0] == token.token.swapcase() for token in study.tokens)
    assert "For 0.0 % of the tokens the nearest one is of the same kind" in study.findings[0]
    assert study.findings[1].startswith("16 of 16 tokens that occur in both cases")
    assert study.findings[2] == "Of 5 vowels, 5 have another vowel as their nearest lower-case letter."


def test_the_plane_is_that_of_numpys_decomposition():
    vectors = torch.randn(20, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    vectors -= vectors.mean(0)
    places, shares = principal_plane(vectors)
    values, axes = np.linalg.eigh(np.cov(vectors.numpy().T))
    for axis in (0, 1):
        expected = vectors.numpy() @ axes[:, -1 - axis]
        assert np.allclose(abs(places[:, axis].numpy()), abs(expected))
        assert places[places[:, axis].abs().argmax(), axis] > 0
        assert shares[axis] == pytest.approx(values[-1 - axis] / values.sum())


@pytest.mark.parametrize("token, kind", [("a", "lower case"), (" The", "upper case"), ("42", "digit"), (" ", "space"),
                                         ("\n", "space"), ("'s", "sign"), (",", "sign")])  # fmt: skip
def test_kinds(token, kind):
    assert kind_of(token) == kind


@pytest.mark.parametrize("table", ["embedding", "head"])
def test_the_command_prints_the_neighbours_that_were_asked_for(table, tmp_path, capsys):
    folder = train_into(tmp_path / "model")
    arguments = ["study", "embeddings", str(folder), "--text", "bad cab fed a head", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--table", table, "--near", "a", "--near", "b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    study = json.loads((tmp_path / "out/embeddings.json").read_text())
    tokens = {token["token"]: token for token in study["tokens"]}
    for line, name in zip(lines, "ab", strict=False):
        assert line.split()[:2] == [repr(name), repr(tokens[name]["nearest"][0][0])]
    assert study["table"] == table and (tmp_path / "out/map.svg").is_file()


@pytest.mark.parametrize("arguments, words", [
    (["--text", "bad cab", "--near", "h"], "--near 'h': is not among the 5 most frequent tokens of the text"),
    (["--text", "aaa"], "the text: has 1 different tokens; a map needs at least 3"),
    (["--text", "ΜΗΝΙΝ"], "outside the vocabulary"),
])  # fmt: skip
def test_a_mistake_is_one_line(arguments, words, tmp_path, capsys):
    folder = train_into(tmp_path / "model")
    assert main(["study", "embeddings", str(folder), *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_all_studies_of_a_training_for_the_report_of_a_run(tmp_path):
    data = make_data(tmp_path / "data")
    train(tiny(max_iters=8, checkpoint_interval=8, eval_interval=4), data, tmp_path / "micro")
    study = study_trained(tmp_path / "micro", data, tmp_path / "figures")
    assert study.figures == [f"micro-{what}" for what in ("attention-entropy", "attention-heads", "lens", "embeddings")]
    assert {file.stem for file in (tmp_path / "figures").iterdir()} == set(study.figures)
    assert len(study.findings) >= 8 and all(finding.endswith(".") for finding in study.findings)
