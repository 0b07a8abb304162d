"""What leaves a document out or changes it, each by itself, and the count of what became of all."""

import pickle
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt.config import QUALITY_RULES, Config, DataConfig
from nanogpt.corpus import profanity
from nanogpt.corpus.fates import EXAMPLES, Fate, Fates
from nanogpt.corpus.filters import Filters
from nanogpt.corpus.quality_rules import RULES
from nanogpt.faults import UserError
from nanogpt.records import from_json, to_json
from nanogpt.results.text import DocumentFates, FateCount
from nanogpt.sources.cleaning import clean
from nanogpt.sources.document import Document

pytestmark = pytest.mark.fast

PROSE = (
    "The morning that we left, a thin rain had begun to fall on the harbour, and the boats were lying with their bows "
    "to the wall as though they wanted to be let in. My brother carried both of the bags. Nobody came to say goodbye, "
    "which we had asked for, and still I looked back at every corner until the last house was behind us.\n"
)
LANGUAGES = {
    "de": "Der Hund ist nicht mit dem Mann in die Stadt gegangen, und auch das Kind wird von der Frau auf den Weg",
    "es": "El perro no fue con los niños a la ciudad, pero también es una de las cosas que por su parte lo dice",
    "fr": "Le chien est dans la ville avec les enfants, et nous ne sommes pas sur une route qui est pour vous",
    "it": "Il cane non è con gli uomini della città, che sono anche più vecchi di una casa nel bosco per le vie",
    "nl": "De hond is niet met het kind naar de stad, maar er wordt ook op een huis van de man in het bos",
    "pt": "O cão não foi com os homens para a cidade, mas também são uma das coisas que ele diz do seu mundo",
}


def fate(text: str, **settings: object) -> str:
    return Filters.from_config(DataConfig(**settings)).apply(Document(text, "a.txt", "own")).fate


def test_by_default_a_document_is_kept_in_its_normal_form(hostile="\ufeffa\r\nb\x00\x85é ﬁ\n"):
    filters = pickle.loads(pickle.dumps(Filters.from_config(DataConfig())))
    kept = filters.apply(Document(hostile, "a.txt", "own"))
    assert (kept.fate, kept.text) == ("kept", "a\nb\né ﬁ\n")
    assert Filters.from_config(DataConfig(unicode="nfkc")).apply(Document(hostile, "", "")).text == "a\nb\né fi\n"
    assert Filters.from_config(DataConfig(), str.upper).apply(Document("abc", "", "")).text == "ABC"


@settings(max_examples=30, deadline=None)
@given(st.text(st.sampled_from("a é\u0301ﬁ\n\r\x00\x7f\x85\u2028\ufeff\tA")), st.sampled_from(["NFC", "NFKC"]))
def test_a_normal_form_stays_as_it_is(text, form):
    once = clean(text, form)
    assert clean(once, form) == once
    assert not set(once) & set("\r\x00\x7f\x85\u2028")


@pytest.mark.parametrize("text, settings, reason", [
    (" \n\t", {}, "empty"),
    ("\ufeff\x00", {}, "empty"),
    ("short", {"min_characters": 6}, "too_short"),
    ("sixsix", {"min_characters": 6, "max_characters": 6}, "kept"),
    ("sevense", {"max_characters": 6}, "too_long"),
    (PROSE, {"quality": "gopher", "language": "en"}, "kept"),
    (PROSE[:100], {"quality": "gopher"}, "few_words"),
    ("word " * 100_001, {"quality": "gopher"}, "many_words"),
    (PROSE.replace(" ", "") * 50 + " " + "x" * 60, {"quality": ["word_length"]}, "word_length"),
    ("#tag " * 10 + PROSE, {"quality": "gopher"}, "symbols"),
    (PROSE.replace(", ", "... "), {"quality": ["symbols"]}, "kept"),
    (PROSE.replace(" ", "... ", 10), {"quality": ["symbols"]}, "symbols"),
    ("- " + PROSE.replace(". ", "\n- "), {"quality": "gopher"}, "bullets"),
    (PROSE.replace(". ", "…\n"), {"quality": ["ellipses"]}, "ellipses"),
    (PROSE + "1 2 3 4 5 6 7 8 9 0 " * 2, {"quality": "gopher"}, "no_letters"),
    (LANGUAGES["de"] * 3, {"quality": "gopher"}, "few_stop_words"),
    (PROSE + PROSE, {"quality": "gopher"}, "repeated_lines"),
    (PROSE + "\n" + PROSE.replace("\n", " again\n") + "\n" + PROSE, {"quality": ["repeated_paragraphs"]},
     "repeated_paragraphs"),
    (PROSE + "as we always say " * 12, {"quality": "gopher"}, "repeated_phrases"),
    (PROSE + "as we always say " * 12, {"quality": ["few_words", "bullets"]}, "kept"),
    (PROSE, {"language": "de"}, "language"),
    ("x = 1\ny = [2, 3]\nprint(x + sum(y))", {"language": "en"}, "language"),
])  # fmt: skip
def test_the_first_reason_against_a_document_is_its_fate(text, settings, reason):
    assert fate(text, **settings) == reason


def test_each_rule_of_quality_has_a_name_in_the_configuration_and_a_fate():
    assert tuple(RULES) == QUALITY_RULES == tuple(rule for rule in QUALITY_RULES if Fate(rule))
    assert DataConfig(quality="symbols").quality_rules == {"symbols"}
    with pytest.raises(UserError, match=r"data.quality: found 'simbols', should be .*\(did you mean \"symbols\"\?\)$"):
        Config().with_changes({"data.quality": ["bullets", "simbols"]})


@pytest.mark.parametrize("language", LANGUAGES)
def test_languages_are_told_apart_by_their_commonest_words(language):
    others = [other for other in LANGUAGES if other != language] + ["en"]
    assert fate(LANGUAGES[language], language=language) == "kept"
    assert {fate(LANGUAGES[language], language=other) for other in others} == {"language"}


def test_swear_words_are_whole_words_and_shown_masked():
    text = "Fuck! That Scunthorpe bullshit, damn it, said the cock of Essex in Clitheroe; no shitake."
    found = profanity.find(text)
    assert [text[finding.first : finding.end] for finding in found] == ["Fuck", "bullshit"]
    assert [finding.masked for finding in found] == ["Fu**", "bu******"]
    assert profanity.find("İ " + text)[0].first == 2  # whose lower case is one character longer


def test_profanity_is_counted_or_left_out_above_the_limit():
    twice = PROSE + "bullshit and bullshit"
    filters = Filters.from_config(DataConfig(profanity="count"))
    assert [len(filters.apply(Document(text, "", "")).findings) for text in (PROSE, twice)] == [0, 2]
    assert fate(twice, profanity="drop") == "profanity"
    assert fate(twice, profanity="drop", profanity_limit=0.1) == "kept"


MAIL = "Write to jane.doe@mail.example.org or call (415) 555-2671."


def test_private_data_is_counted_redacted_or_leaves_a_document_out():
    count, redact, drop, ignore = (
        Filters.from_config(DataConfig(private_data=choice)).apply(Document(MAIL, "", ""))
        for choice in ("count", "redact", "drop", "ignore")
    )
    assert (count.text, ignore.text, ignore.findings) == (MAIL, MAIL, [])
    assert redact.text == "Write to <email> or call <phone>."
    assert drop.fate == "private_data"
    assert [(finding.kind, finding.masked) for finding in count.findings] == [
        ("email", "ja**.***@****.*******.***"),
        ("phone", "(4**) ***-****"),
    ]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 40), max_size=4))
def test_fates_of_pieces_are_those_of_the_whole(seed, borders):
    """Nothing is lost, whatever the pieces; and through JSON."""
    numbers = random.Random(seed)
    filters = Filters.from_config(DataConfig(min_characters=10, profanity="count"))
    texts = numbers.choices(["", "short", PROSE, MAIL, PROSE + "shit"], k=40)
    documents = [Document(text, str(number), "own") for number, text in enumerate(texts)]
    ends = [0, *sorted(borders), 40]
    whole, joined = Fates(), Fates()
    for first, end in pairwise(ends):
        piece = Fates()
        for document in documents[first:end]:
            filtered = filters.apply(document)
            for fates in (whole, piece):
                fates.count(filtered.fate, document.name, len(document.text))
                fates.find(filtered.findings)
        joined.merge(from_json(DocumentFates, to_json(piece.record())))
    record = joined.record()
    assert record == whole.record()
    assert sum(count.documents for count in record.fates.values()) == 40
    assert sum(count.characters for count in record.fates.values()) == sum(map(len, texts))
    assert all(len(count.examples) <= EXAMPLES for count in record.fates.values())


def test_a_kept_document_may_turn_out_to_be_a_duplicate():
    fates = Fates()
    fates.count(Fate.KEPT, "a.txt", 10)
    fates.take_from_kept(Fate.DUPLICATE, "a.txt", 10)
    assert fates.record() == DocumentFates({"duplicate": FateCount(1, 10, ["a.txt"])})
