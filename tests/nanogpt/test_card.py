"""The model card: what huggingface.co reads of it, what it says, and that no name or sample can become markup in it."""

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from nanogpt.config import Config
from nanogpt.export import card, front_matter
from nanogpt.export.card_facts import Adapters, Base, LearnedText, ModelCard, Sample
from nanogpt.export.front_matter import Mark
from nanogpt.markdown import one_line, printable
from nanogpt.results.evaluation import Evaluation, ModelFigures
from nanogpt.results.text import TokenSplit
from nanogpt.results.training import TrainingOutcome
from nanogpt.sources.catalogue import CATALOGUE
from tests.conftest import CHECKOUT

pytestmark = pytest.mark.fast

PLAYS = CATALOGUE["tiny_shakespeare"]
SPLITS = {name: TokenSplit(tokens=size, bytes=size, characters=size) for name, size in (("train", 900), ("val", 100))}
CONFIG = Config(
    name="bard",
    model=dict(n_layer=2, n_head=4, n_embd=32, block_size=64, vocab_size=66, dropout=0.1),
    training=dict(batch_size=6, gradient_accumulation=2, max_iters=400, seed=7, early_stopping_patience=3),
)
OUTCOME = TrainingOutcome(
    status="finished", reason="max_iters", step=400, seconds=61.0, tokens=307_200, best_val_loss=1.8, best_step=390,
    best_is_average=False, skipped=0, rewinds=0, final_val_loss=1.81, sha256="ab" * 32, parameters=50_000,
    tokens_per_second=5e3, peak_memory_bytes=1 << 28, device="cpu", precision="bfloat16", micro_batch=6, context=64,
)  # fmt: skip
BARE = ModelCard(name="bard", parameters=50_000, shape=CONFIG.model, tokenizer="char")
TRAINED = replace(
    BARE, config=CONFIG, outcome=OUTCOME, weights="cd" * 32, text=LearnedText.of(PLAYS.name, PLAYS.sha256, SPLITS)
)
BASELINES = {"uniform": 6.0, "unigram": 4.8, "5-gram": 2.4}
SPEC = {  # huggingface/hub-docs: modelcard.md, and docs/hub/model-cards.md
    "language", "license", "library_name", "tags", "datasets", "metrics", "model-index", "pipeline_tag", "base_model",
}  # fmt: skip
SECTIONS = ["How to use it", "What it is", "What it learned from", "How it was trained", "How good it is", "A sample",
            "Limits", "Licence", "How it was made"]  # fmt: skip
HOSTILE = "x\n---\n\n# Owned\n<script>alert(1)</script> ```\n````sh\n[a](javascript:b) | c | {{ d }}\nlicense: mit"


def judged(bits_per_byte: float, **baselines: float) -> ModelCard:
    found = Evaluation(loss=1.5, perplexity=4.5, bits_per_byte=bits_per_byte, tokens=100, window=64)
    figures = ModelFigures(found, found, None, 50_000, "char", 64, 1)
    return replace(TRAINED, evaluation=figures, baselines={**BASELINES, **baselines})


def metadata(text: str) -> dict:
    begin, front, _ = text.split("---\n", 2)
    assert begin == ""
    return yaml.safe_load(front)


def headings(text: str) -> list[str]:
    tokens = MarkdownIt("commonmark").enable("table").parse(text.split("\n---\n", 1)[1])
    return [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]


# ---- what programs read


def test_the_front_matter_has_the_keys_of_the_specification():
    found = metadata(card.text(judged(2.2)))
    assert found.keys() - {front_matter.KEY} <= SPEC
    assert (found["language"], found["license"], found["library_name"]) == (["en"], "unknown", "transformers")
    assert found["pipeline_tag"] == "text-generation" and "from-scratch" in found["tags"]
    [result] = found["model-index"][0]["results"]
    assert result["dataset"] == {"type": "text", "name": "tiny_shakespeare", "split": "test"}
    assert result["metrics"][1] == {"type": "bits_per_byte", "value": 2.2}


@pytest.mark.parametrize("found", [BARE, TRAINED, judged(2.2), judged(float("inf"))], ids=str)
def test_huggingface_hub_reads_it(found):
    hub = pytest.importorskip("huggingface_hub")
    text = card.text(found)
    read = hub.ModelCard(text)
    assert read.data.license == "unknown" and read.data.pipeline_tag == "text-generation"
    if found.evaluation:
        assert read.data.model_name == "bard" and read.data.eval_results[0].task_type == "text-generation"
    again = hub.ModelCard(str(read))  # what its editor would save
    assert again.data.to_dict() == read.data.to_dict() and again.text == read.text


def test_the_language_of_an_unknown_text_is_left_out():
    assert "language" not in metadata(card.text(replace(TRAINED, text=LearnedText.of("letters", "ab"))))
    assert "language" not in metadata(card.text(BARE))


@pytest.mark.parametrize(
    "name", ["1e5", "0x1f", "no", "null", "2026-01-31", "1_0", "a: b", "- a", "#a", "~", "é", "a'"]
)
def test_a_name_stays_text_to_every_reader_of_yaml(name):
    """What PyYAML would leave without quotes, though YAML 1.2 reads a number, is quoted."""
    text = card.text(replace(judged(2.2), name=name))
    assert metadata(text)["model-index"][0]["name"] == name
    plain = [line for line in text.split("\n---\n")[0].splitlines() if line == f"- name: {name}"]
    assert plain == []


def test_the_mark_is_read_back(tmp_path):
    base = Base("micro", LearnedText.of(PLAYS.name, PLAYS.sha256))
    tuned = replace(TRAINED, base=base, text=LearnedText.of("letters", "12" * 32))
    (tmp_path / "README.md").write_text(card.text(tuned))
    mark = front_matter.read_mark(tmp_path)
    assert mark == Mark("bard", "cd" * 32, "letters", "12" * 32, "micro", PLAYS.name, PLAYS.sha256)
    assert mark.as_base().text.name == "letters" and not front_matter.is_own_words(tmp_path)


@pytest.mark.parametrize("text", ["", "# Mine", "---\nlicense: mit\n---\n", "---\n- a\n---\n", "---\n{\n---\n",
                                  "---\nnanogpt: 3\n---\n#", "---\nnanogpt: {model: [1]}\n---\n", "\xff"])  # fmt: skip
def test_another_readme_has_no_mark(text, tmp_path):
    assert not front_matter.is_own_words(tmp_path)  # there is none
    (tmp_path / "README.md").write_bytes(text.encode("latin-1"))
    assert front_matter.read_mark(tmp_path) is None
    assert front_matter.is_own_words(tmp_path) is not text.startswith("---\nnanogpt")


def test_a_card_of_an_older_version_is_no_persons_words(tmp_path):
    (tmp_path / "README.md").write_text("---\nlibrary_name: transformers\ntags:\n- nanogpt-autopilot\n---\n\n# tiny\n")
    assert front_matter.read_mark(tmp_path) is None and not front_matter.is_own_words(tmp_path)


# ---- what people read


def test_all_sections_are_there_with_what_is_known():
    text = card.text(replace(judged(2.2), sample=Sample(0.8, "\nGo, sir.", "ROMEO:")))
    assert headings(text) == ["bard", *SECTIONS]
    for words in ("A GPT of 50,000 parameters that learned `tiny_shakespeare` from scratch.", PLAYS.sha256, "English",
                  "1,000 bytes after cleaning", "0.02 (Muon), 0.01 (head and vectors), 0.05 (embedding)",
                  "20 steps of warm-up", "12 sequences of 64 tokens a step: 768 tokens", "| Dropout | 0.1 |",
                  "| Seed | 7 |", "bfloat16", "after 3 evaluations", "1.8000 at step 390", "ROMEO:\nGo, sir.",
                  "Qwen3ForCausalLM", "`tiny_shakespeare`: public domain."):  # fmt: skip
        assert words in text, words


def test_what_is_not_known_is_said():
    text = card.text(replace(BARE, config=CONFIG, text=LearnedText.of("unknown")))
    for words in ("a text of unknown name", "Its language is not recorded", "Its training has not finished",
                  "It was not evaluated on a test split", "its licence is not recorded", "| not recorded"):  # fmt: skip
        assert words in text, words
    assert "That is not recorded here." in card.text(BARE) and "made elsewhere" in card.text(BARE)


@pytest.mark.parametrize("bits, words, better", [
    (2.2, "has learned", "It is better than all of these."),
    (3.0, "is undertrained", "It is no better than: 5-gram."),
    (5.0, "has not learned", "It is no better than: unigram, 5-gram."),
    (float("nan"), "has not learned", "It is no better than: uniform, unigram, 5-gram."),
])  # fmt: skip
def test_a_model_that_learned_little_is_called_so(bits, words, better):
    text = card.text(judged(bits))
    assert f"**bard {words}: " in text and better in text
    limits = text.split("## Limits")[1]
    assert (f"- Bard {words}" in limits) is (words != "has learned")


def test_the_catalogues_licence_counts_for_its_own_content_alone():
    other = LearnedText.of(PLAYS.name, "00" * 32)
    assert (other.name, other.licence, other.language, other.address) == ("unknown", None, None, None)
    assert LearnedText.of(PLAYS.name).licence is None
    embedded = LearnedText.of("embedded", "00" * 32)
    assert embedded.language == "en" and embedded.licence.startswith("PSF") and embedded.address is None


@pytest.mark.parametrize("place", ["/home/ada/secret/letters.txt", "../secret/letters.txt", "~/secret/letters.txt"])
def test_of_a_persons_text_there_is_the_name_alone(place):
    text = card.text(replace(TRAINED, text=LearnedText.of(place, "ab" * 32)))
    assert "`letters.txt`" in text and "secret" not in text and "ada" not in text


def test_adapters_and_merged_models_name_base_rank_and_text():
    base, letters = Base("micro", LearnedText.of(PLAYS.name, PLAYS.sha256)), LearnedText.of("letters", "ab" * 32)
    adapters = replace(TRAINED, kind="adapters", base=base, text=letters, adapters=Adapters(8, 16.0))
    text = card.text(adapters)
    assert "Low-rank adapters of rank 8 for `micro`, a GPT of 50,000 parameters, tuned on `letters`." in text
    assert "| Adapters | rank 8, alpha 16;" in text and "Before that, `micro` had learned `tiny_shakespeare`." in text
    assert metadata(text)["library_name"] == "peft" and "AdamW, betas" not in text.split("## How it was trained")[0]
    merged = card.text(replace(BARE, kind="merged", base=base, text=letters, adapters=Adapters(8, 16.0)))
    assert "`micro`, a GPT of 50,000 parameters, with low-rank adapters of rank 8" in merged and "`letters`" in merged
    assert "base_model" not in metadata(text) | metadata(merged)  # huggingface.co refuses names that are not its own


# ---- hostile names and samples


@pytest.mark.parametrize("text", [HOSTILE, HOSTILE.replace("\n", "\r"), "---", "`", "\ud800", "\u2028---\u2028", ""])
def test_hostile_names_and_samples_stay_in_their_place(text):
    found = replace(
        judged(2.2, **{text: 1.0}), name=text, tokenizer=text, command=text, sample=Sample(0.8, text, text),
        text=replace(TRAINED.text, name=text or "a", licence=text or "b", splits={text: SPLITS["val"]}),
        base=Base(text, LearnedText(text or "c")),
        outcome=replace(OUTCOME, reason=text, device=text), checkpoint=text or "final",
    )  # fmt: skip
    for kind in ("model", "adapters", "merged"):
        check_hostile(card.text(replace(found, kind=kind)), text)


@given(st.text(max_size=80))
def test_any_name_and_sample_stay_in_their_place(text):
    named = replace(judged(2.2), name=text, sample=Sample(0.8, text, text), opening=text, base=Base(text))
    check_hostile(card.text(replace(named, text=LearnedText(text or "a"))), text)


def check_hostile(written: str, text: str) -> None:
    """The front matter is what it should be; the headings and the places of code are those of any card."""
    found = metadata(written)
    assert found["license"] == "unknown" and found["model-index"][0]["name"] == one_line(text)
    written.encode()
    body = written.split("\n---\n", 1)[1]
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    inner = [child for token in tokens for child in token.children or []]
    assert not [token for token in [*tokens, *inner] if token.type in ("html_block", "html_inline", "image")]
    links = [child.attrs["href"] for child in inner if child.type == "link_open"]
    assert set(links) <= {card.LICENCES, PLAYS.page}
    assert [heading for heading in headings(written) if heading in SECTIONS] == SECTIONS
    assert len(headings(written)) <= len(SECTIONS) + 1
    fences = [token for token in tokens if token.type == "fence"]
    samples = [token.content for token in fences if token.info == "text"]
    assert [sample.strip("\n") for sample in samples] == [printable(text + text).strip("\n")]


def test_the_code_in_it_is_python_whatever_the_prompt():
    for prompt in ("'", '"', "\\", "'''", HOSTILE, "\x00"):
        for kind in ("model", "adapters"):
            found = replace(BARE, kind=kind, opening=prompt, base=Base(prompt))
            fences = [token for token in MarkdownIt().parse(card.text(found)) if token.info == "python"]
            assert len(fences) == 1
            compile(fences[0].content, "README.md", "exec")


def test_it_needs_no_torch():
    heavy = "[name for name in ('torch', 'jinja2', 'flows') if name in sys.modules]"
    code = f"import sys; from nanogpt.export import card; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.fast
def test_the_example_of_use_begins_with_a_line_and_not_within_a_word():
    prompt = "rance ta'en\nAs shall with either part's agreement stand?\n\nBAPTISTA:\n"
    found = card.text(replace(BARE, sample=Sample(temperature=0.8, prompt=prompt, text="Oh")))
    assert "--prompt BAPTISTA:" in found and "rance" not in found.split("## How to use it")[1].split("\n## ")[0]
