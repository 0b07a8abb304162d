"""Which text a run learns from: by what it can compute, of what can be had, and no more of it than is read."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.cli.command_line import parse
from flows.context.command_words import AssumedSpeed, assumed_speed_of
from flows.full_run import PHASES
from flows.ledger.facts import SurveyedText
from flows.planning import assumed, corpora, texts
from flows.planning.corpora import Means
from nanogpt.config import DataConfig
from nanogpt.faults import UserError
from nanogpt.tokenizers.vocabulary import likely_bytes_per_token

GIB, MINUTE, HOUR = 2**30, 60.0, 3600.0
TWO_CORES, M4, GPU = 4.7e11, assumed_speed_of("30M:4096:400ms").flops_per_second, 5e13  # FLOP/s
KNOWN = texts.candidates(DataConfig(source="auto"))


def chosen(rate: float, seconds: float, among: list[SurveyedText] = KNOWN, **data) -> corpora.TextChoice:
    return corpora.choose(among, Means(rate, seconds, seconds, 10**12, 5e6), DataConfig(**data))


@pytest.mark.parametrize("rate, seconds, name", [
    (TWO_CORES, 2 * MINUTE, "tiny_shakespeare"), (TWO_CORES, 10 * MINUTE, "tiny_shakespeare"),
    (TWO_CORES, 6 * HOUR, "tinystories"), (M4, 9 * MINUTE, "tiny_shakespeare"), (M4, 2 * HOUR, "tinystories"),
    (M4, 8 * HOUR, "fineweb_edu"), (GPU, 5 * MINUTE, "tinystories"), (GPU, HOUR, "fineweb_edu"),
])  # fmt: skip
def test_the_text_follows_computing_power_and_budget_and_not_the_clock_alone(rate, seconds, name):
    choice = chosen(rate, seconds)
    assert choice.text.name == name and "parameters" in choice.why
    assert sorted(row.name for row in choice.not_chosen) == sorted(text.name for text in KNOWN if text.name != name)


def test_only_the_play_goes_through_memory_as_one():
    assert [text.name for text in KNOWN if not text.in_pieces] == ["tiny_shakespeare"]


def without(*names: str) -> list[SurveyedText]:
    return [replace(text, obstacle="no connection") if text.name in names else text for text in KNOWN]


def test_what_cannot_be_had_gives_way_to_the_next_best_and_the_plan_says_so():
    assert chosen(M4, 8 * HOUR, without("fineweb_edu")).text.name == "openwebtext"
    hub = [text.name for text in KNOWN if text.name not in ("embedded", "tiny_shakespeare")]
    offline = chosen(M4, 8 * HOUR, without(*hub))
    assert offline.text.name == "embedded"
    assert "openwebtext and wikitext_103 and tinystories and wikitext_2 cannot be had (no connection)" in offline.why
    assert offline.why.count("no connection") == 1 and offline.why.endswith("embedded is the next best")
    assert chosen(TWO_CORES, MINUTE, without(*hub, "tiny_shakespeare")).text.name == "embedded"
    with pytest.raises(ValueError, match="embedded: no connection"):
        chosen(M4, HOUR, without(*[text.name for text in KNOWN]))


def test_tokens_suit_the_text_and_the_size_of_model_unless_a_person_chose_them():
    assert chosen(TWO_CORES, MINUTE).tokens.tokenizer == "char"
    machines = [(TWO_CORES, HOUR), (M4, 8 * HOUR), (GPU, 8 * HOUR)]
    sizes = [chosen(rate, seconds).tokens.vocabulary for rate, seconds in machines]
    assert sizes == sorted(set(sizes)) and chosen(M4, 8 * HOUR).tokens.tokenizer == "bpe"
    assert chosen(M4, 8 * HOUR, bpe_vocab_size=1024).tokens.vocabulary == 1024
    assert chosen(M4, 8 * HOUR, tokenizer="gpt2").tokens.tokenizer == "gpt2"


@settings(max_examples=50)
@given(st.floats(1e10, 1e15), st.floats(60, 30 * 86400), st.integers(10**9, 10**13), st.integers(0, 10**11))
def test_no_more_is_fetched_than_is_read_and_than_there_is_room_for(rate, seconds, disk, tokens):
    means = Means(rate, seconds, seconds, disk, 5e6)
    choice = corpora.choose(KNOWN, means, DataConfig())
    wanted = choice.wanted_bytes(tokens, DataConfig())
    assert 0 < wanted <= choice.text.bytes
    if not choice.text.in_pieces:
        assert wanted == choice.text.bytes  # whole
        return
    assert wanted <= means.most_text
    read = tokens * choice.corpus(DataConfig()).bytes_per_token
    assert wanted <= corpora.SPARE * (read + 2 * corpora.MOST_HELD_OUT) + corpora.PORTION
    assert wanted >= min(read, means.most_text, choice.text.bytes)


def planned(tmp_path, budget: str, speed: AssumedSpeed, *arguments: str):
    words = ["--workspace", str(tmp_path), "--budget", budget, "--data", "auto", *arguments]
    options = parse([*words, "--plan"], PHASES)
    return assumed.plan_for(options, speed, "mps", 24 * GIB, 10**12, texts.candidates(options.config.data), tmp_path)


def test_on_the_figures_of_an_m4_eight_hours_train_5_m_and_15_m_parameters_on_web_pages(tmp_path):
    """30 M parameters at 400 ms a step of 4,096 tokens; 50 M follow where three days feed them."""
    speed = assumed_speed_of("30M:4096:400ms")
    night = planned(tmp_path, "8h", speed)
    assert [model.name for model in night.ladder] == ["tiny_model", "compact_model"]
    assert night.text is not None and night.text.name == "fineweb_edu" and night.text.tokens.tokenizer == "bpe"
    assert "small_model" in [row.name for row in night.left_out]
    bytes_per_token = likely_bytes_per_token("bpe", night.text.tokens.vocabulary, 1.0)
    read = max(model.tokens for model in night.ladder) * bytes_per_token
    assert read < night.text.wanted_bytes < 1.4 * read + corpora.PORTION
    assert sum(night.phase_seconds.values()) < 8 * HOUR
    assert night.ladder[-1].config.data.bpe_vocab_size == night.text.tokens.vocabulary
    longer = planned(tmp_path, "3d", speed)
    assert [model.name for model in longer.ladder][-1] == "small_model"


def test_on_a_large_gpu_15_m_and_125_m_parameters_follow_in_turn(tmp_path):
    made = planned(tmp_path, "8h", AssumedSpeed(30e6, 4096, 0.015))
    assert [model.name for model in made.ladder] == ["compact_model", "medium_model"]
    bits = [model.expected_bits_per_byte for model in made.ladder]
    assert bits == sorted(bits, reverse=True)


def test_a_named_text_is_planned_with_as_it_is(tmp_path):
    made = planned(tmp_path, "8h", assumed_speed_of("30M:4096:400ms"), "--data", "tiny_shakespeare")
    assert made.text is not None and made.text.name == "tiny_shakespeare" and made.ladder[0].name == "micro"
    reasons = {row.name: row.reason for row in made.left_out}
    assert "it would learn the text by heart" in reasons["small_model"]


def test_a_small_text_of_a_persons_own_is_planned_in_characters_and_a_hubs_as_large_as_a_plan_can_read(tmp_path):
    letters = tmp_path / "letters.txt"
    letters.write_text("Dear Ada, the engine weaves algebraic patterns.\n" * 20_000)
    speed = assumed_speed_of("30M:4096:400ms")
    own = planned(tmp_path, "20m", speed, "--data", str(letters))
    assert own.text is not None and own.text.tokens.tokenizer == "char"
    hub = planned(tmp_path, "8h", speed, "--data", "hf:ada/letters")
    assert hub.text is not None and hub.text.wanted_bytes > 10**8 and "hf:ada/letters, " in texts.described(hub.text)


@pytest.mark.parametrize("words", ["30M", "0M:4096:400ms", "30M:4096:0s", "30M:4096:400", "-1M:1:1s"])
def test_a_speed_that_is_none_is_refused_in_one_line(words):
    with pytest.raises(UserError, match=r"--assume-speed: found .*, expected PARAMETERS:TOKENS:TIME"):
        parse(["--plan", f"--assume-speed={words}"], PHASES)


def test_a_speed_is_assumed_for_a_plan_alone():
    with pytest.raises(UserError, match="--assume-speed: goes with --plan"):
        parse(["--assume-speed", "30M:4096:400ms"], PHASES)
