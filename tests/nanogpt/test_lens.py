"""What a model would say after each layer, and how surprised it is: held against the model's own losses."""

import json
import os
from argparse import Namespace
from html.parser import HTMLParser

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.cli import main
from nanogpt.commands.studies.subjects import LONGEST_TEXT, text_of
from nanogpt.faults import UserError
from nanogpt.results.study import Guess, LensLayer, SeenToken, SurpriseStudy
from nanogpt.study.lens import _of_lens, study_lens, study_surprise
from nanogpt.study.subject import Subject
from nanogpt.study.surprise_page import shade, write_page
from nanogpt.tokenizers.byte_pairs import BPETokenizer
from nanogpt.units import percent
from tests.nanogpt.model_case import randomised, small
from tests.nanogpt.trained_case import LETTERS, model, train_into

pytestmark = pytest.mark.fast

TEXT = "bad cab fed a head\n"


def subject():
    return Subject("letters", model(), LETTERS)


def test_after_the_last_layer_the_lens_says_what_the_model_says():
    looked_at = subject()
    study = study_lens(looked_at, TEXT)
    ids = looked_at.tokens_of(TEXT)
    assert [layer.layer for layer in study.layers] == [0, 1, 2]
    last = study.layers[-1]
    with torch.no_grad():
        logits, _ = looked_at.model(ids[None])
        _, loss = looked_at.model(ids[None, :-1], ids[None, 1:])
    assert last.loss == pytest.approx(float(loss), abs=1e-5)
    assert (last.agreement, last.divergence) == (1.0, pytest.approx(0.0, abs=1e-6))
    assert [guess.token for guess in study.guesses[-1]] == looked_at.pieces(logits[0].argmax(-1))
    assert all(layer.divergence > 0 for layer in study.layers[:-1])
    with torch.no_grad():  # by hand: the embeddings alone
        alone = looked_at.model.head(looked_at.model.final_norm(looked_at.model.embed(ids[None], slice(0, len(ids)))))
    assert study.layers[0].loss == pytest.approx(float(F.cross_entropy(alone[0, :-1], ids[1:])), abs=1e-5)


@settings(deadline=None, max_examples=30)
@given(text=st.text(alphabet="abcdefgh \n", min_size=2, max_size=70).filter(str.strip))
def test_every_token_but_the_first_is_judged_once_with_half_a_window_before_it(text):
    looked_at = subject()
    text = looked_at.tokenizer.normalise(text)
    ids = torch.from_numpy(looked_at.tokenizer.encode(text).astype("int64"))
    if len(ids) < 2:
        return
    study = study_surprise(looked_at, text)
    assert "".join(token.text for token in study.tokens) == text
    assert study.tokens[0].nats is None
    window = looked_at.model.config.block_size
    for place in {1, len(ids) // 2, len(ids) - 1} - {0}:
        # the windows begin at 0 and then so that each new token has half a window before it
        start = 0 if place <= window else (place - 1 - window // 2) // (window - window // 2) * (window - window // 2)
        with torch.no_grad():
            logits, _ = looked_at.model(ids[None, start:place])
        expected = logits[0, -1].log_softmax(-1)
        token = study.tokens[place]
        assert token.nats == pytest.approx(-float(expected[ids[place]]), abs=1e-4)
        assert token.rank == 1 + int((expected > expected[ids[place]]).sum())
        likeliest = expected.exp().topk(5).values.tolist()
        assert [guess.probability for guess in token.guesses] == pytest.approx(likeliest, abs=1e-4)


def test_that_the_last_layer_agrees_with_itself_is_no_finding():
    def sentences(*losses_and_agreements: tuple[float, float]) -> str:
        return " ".join(_of_lens([LensLayer(n, *pair, 0.1) for n, pair in enumerate(losses_and_agreements)]))

    late = sentences((3.0, 0.1), (2.0, 0.4), (1.9, 1.0))
    assert "Before the last layer the likeliest next token is the final one for less than 50" in late
    assert "layer 1 lowers it most (1.00)" in late
    early = sentences((3.0, 0.1), (3.2, 0.7), (3.3, 1.0))
    assert "After layer 1 the likeliest" in early and "no layer lowers it" in early


def test_byte_pairs_are_pieces_of_the_text():
    tokenizer = BPETokenizer.train("the sheep and the goats " * 50, 270)
    network = randomised(small(vocab_size=tokenizer.vocab_size))
    study = study_surprise(Subject("pairs", network, tokenizer), "the sheep and the goats")
    assert "".join(token.text for token in study.tokens) == "the sheep and the goats"


def test_the_page_needs_nothing_else_and_shows_any_text_as_it_is(tmp_path):
    hostile = '<script src="https://x.example/">&amp;"\n\'{{ 7 * 7 }}'
    seen = [SeenToken("a", None, None, []), SeenToken(hostile, 3.0, 9, [Guess("</span>", 0.5), Guess("\n", 0.25)])]
    page = write_page(SurpriseStudy("<b>m</b>", seen, 3.0, ["Costs 3."]), tmp_path / "page.html").read_text()
    tags: list[tuple[str, dict]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
    parser.feed(page)
    assert [tag for tag, _ in tags].count("script") == 1 and "https://x.example/" in page  # as text alone
    assert not any({"src", "href"} & attributes.keys() for _, attributes in tags)
    assert "url(" not in page and "@import" not in page
    assert "{{ 7 * 7 }}" in page and "<b>m</b>" not in page
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page
    assert 'style="--s:0.5"' in page and shade(3.0) == 0.5 and shade(60.0) == 1.0


def test_the_command_writes_figures_page_and_numbers(tmp_path, capsys):
    folder = train_into(tmp_path / os.fsdecode(b"model\xff"))
    assert main(["study", "lens", str(folder), "--text", TEXT, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert files == {"lens.svg", "layers.svg", "surprise.html", "lens.json"}
    content = json.loads((tmp_path / "out/lens.json").read_text())
    nats = [token["nats"] for token in content["surprise"]["tokens"][1:]]
    assert f"The text costs {sum(nats) / len(nats):.2f} nats a token" in printed
    firsts = sum(token["rank"] == 1 for token in content["surprise"]["tokens"])
    assert f"{percent(firsts / len(nats))} of its tokens are the model's first guess" in printed


@pytest.mark.parametrize(
    "text, words",
    [
        ("a", "is one token"),
        ("", "is empty"),
        ("ΜΗΝΙΝ", "outside the vocabulary"),
        ("ab\udcff", "--text: its character 3 is not text in UTF-8"),
    ],
)
def test_a_mistake_is_one_line(text, words, tmp_path, capsys):
    folder = train_into(tmp_path / "model")
    assert main(["study", "lens", str(folder), "--text", text, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_the_beginning_of_a_long_text_may_end_within_a_character_and_an_endless_one_is_refused(tmp_path, capsys):
    file = tmp_path / "text.txt"
    file.write_text("a" + "é" * (2 * LONGEST_TEXT))
    text = text_of(Namespace(text=None, file=file))
    assert text == "a" + "é" * (LONGEST_TEXT - 1)
    file.write_bytes(b"a\xc3")
    with pytest.raises(UserError, match=r"is not UTF-8 text .* at byte 1"):
        text_of(Namespace(text=None, file=file))
    (tmp_path / "endless").symlink_to("/dev/zero")
    assert main(["study", "lens", "absent", "--file", str(tmp_path / "endless"), "--out", str(tmp_path / "out")]) == 2
    assert "endless: not a plain file" in capsys.readouterr().err
