"""Decoding: every encoding that people have comes out right, damage is replaced and counted, doubt is refused."""

import codecs
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nanogpt.faults import UserError
from nanogpt.sources.decoding import decode

pytestmark = pytest.mark.fast
PATH = Path("notes.txt")

RUSSIAN = (
    "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему. Всё смешалось в доме "
    "Облонских. Жена узнала, что муж был в связи с бывшею в их доме француженкою-гувернанткой.\n"
)
UKRAINIAN = "Реве та стогне Дніпр широкий, сердитий вітер завива, додолу верби гне високі. Її ґанок, єдність.\n"
POLISH = (
    "Litwo! Ojczyzno moja! ty jesteś jak zdrowie. Ile cię trzeba cenić, ten tylko się dowie, kto cię stracił. Dziś.\n"
)
CZECH = (
    "Byl pozdní večer, první máj, večerní máj, byl lásky čas. Hrdliččin zval ku lásce hlas, kde borový zaváněl háj.\n"
)
HUNGARIAN = "Hazádnak rendületlenűl légy híve, oh magyar; bölcsőd az s majdan sírod is, mely ápol s eltakar.\n"
GERMAN = "Wer reitet so spät durch Nacht und Wind? „Mein Sohn, was birgst du so bang dein Gesicht?“ Süß, groß, böse.\n"
FRENCH = "Longtemps, je me suis couché de bonne heure. Parfois, à peine ma bougie éteinte : « Je m’endors. »\n"
PORTUGUESE = "Todas as famílias felizes são iguais, mas cada família infeliz é infeliz à sua maneira. Não há coração.\n"
SWEDISH = "Alla lyckliga familjer liknar varandra, varje olycklig familj är olycklig på sitt eget sätt, sa hon.\n"
ENGLISH = "“It was the best of times,” he said – it’s the age of wisdom, in the café.\n"
JAPANESE = (
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。ニャーニャー泣いていた事だけは記憶している。\n"
)
CHINESE = "话说天下大势，分久必合，合久必分。周末七国分争，并入于秦。及秦灭之后，楚、汉分争，又并入于汉。\n"
TAIWANESE = "話說天下大勢，分久必合，合久必分。周末七國分爭，併入於秦。及秦滅之後，楚、漢分爭，又併入於漢。\n"
KOREAN = "모든 행복한 가정은 서로 닮았고, 불행한 가정은 저마다 나름으로 불행하다. 집안은 모든 것이 뒤죽박죽이었다.\n"
GREEK = "Άνδρα μοι έννεπε, Μούσα, πολύτροπον, ος μάλα πολλά πλάγχθη, επεί Τροίης ιερόν πτολίεθρον έπερσε.\n"
TURKISH = (
    "Bütün mutlu aileler birbirine benzer, her mutsuz ailenin mutsuzluğu kendine göredir. Şimdi ağaçların altında.\n"
)
HEBREW = "בראשית ברא אלהים את השמים ואת הארץ. והארץ היתה תהו ובהו וחשך על פני תהום.\n"
ARABIC = "كل العائلات السعيدة تتشابه، لكن لكل عائلة تعيسة طريقتها الخاصة في التعاسة.\n"

SENTENCES = [
    (RUSSIAN, "cp1251"), (RUSSIAN, "koi8-r"), (RUSSIAN, "cp866"), (RUSSIAN, "iso8859-5"), (RUSSIAN, "mac-cyrillic"),
    (UKRAINIAN, "cp1251"), (UKRAINIAN, "koi8-u"), (POLISH, "cp1250"), (POLISH, "iso8859-2"), (CZECH, "cp1250"),
    (CZECH, "iso8859-2"), (HUNGARIAN, "cp1250"), (GERMAN, "cp1252"), (GERMAN, "mac-roman"), (FRENCH, "cp1252"),
    (PORTUGUESE, "cp1252"), (SWEDISH, "cp1252"), (ENGLISH, "cp1252"), (JAPANESE, "shift_jis"), (JAPANESE, "cp932"),
    (JAPANESE, "euc_jp"), (CHINESE, "gb18030"), (CHINESE, "gbk"), (TAIWANESE, "big5"), (KOREAN, "euc_kr"),
    (KOREAN, "cp949"), (GREEK, "cp1253"), (TURKISH, "cp1254"), (HEBREW, "cp1255"), (ARABIC, "cp1256"),
]  # fmt: skip


@pytest.mark.parametrize(
    "sentence, encoding", SENTENCES, ids=[f"{encoding}-{text[:6]}" for text, encoding in SENTENCES]
)
def test_a_text_in_another_encoding_comes_out_right(sentence, encoding):
    text = sentence * 12
    decoded = decode(text.encode(encoding), PATH)
    assert decoded.text == text and decoded.replaced == 0
    assert decoded.confidence is not None and decoded.confidence >= 0.8


@pytest.mark.parametrize(
    "sentence, encoding", SENTENCES, ids=[f"{encoding}-{text[:6]}" for text, encoding in SENTENCES]
)
def test_so_does_one_among_much_plain_english(sentence, encoding):
    text = ("The quick brown fox jumps over the lazy dog and so on.\n" * 9 + sentence) * 12
    assert decode(text.encode(encoding), PATH).text == text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize(
    "sentence", [ENGLISH, RUSSIAN, CHINESE, "Plain letters alone.\n", "🙂 and a smile.\n", "abc " * 9]
)
def test_unicode_with_and_without_a_mark(encoding, sentence):
    text = sentence * 12
    decoded = decode(text.encode(encoding), PATH)
    assert decoded.text == text and decoded.encoding == encoding.removesuffix("-sig")


@pytest.mark.parametrize("shown", ["\x1b]0;title\a$ ls\n", "N\bNA\bAM\bME\bE of the page\n", "grün\b\b\b\bblau\n"])
def test_what_a_terminal_was_sent_is_text_with_its_control_characters(shown):
    assert decode((shown + ENGLISH).encode() * 99, PATH).text == (shown + ENGLISH) * 99
    beginning = ((shown + ENGLISH) * 99 + "ü").encode()[:-1]  # as where a long text is cut to be looked at
    assert decode(beginning, PATH).encoding == "utf-8"


def test_a_mark_in_either_order_of_bytes():
    for mark, encoding in ((codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF32_BE, "utf-32-be")):
        assert decode(mark + FRENCH.encode(encoding), PATH).text == FRENCH


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\t\n")))
@example("\ufffd")
@example("")
def test_any_text_in_utf8_comes_back(text):
    decoded = decode(text.encode("utf-8"), PATH)
    assert decoded.text == text.removeprefix("\ufeff") and not decoded.replaced and decoded.encoding == "utf-8"


@pytest.mark.parametrize("damage", [b"\xff", b"\xe4", b"\x80\x80"])
def test_damaged_utf8_stays_utf8_with_the_damage_counted(damage):
    good = (FRENCH * 20).encode()
    decoded = decode(good + damage + b" and more.\n" + good, PATH)
    assert decoded.encoding == "utf-8" and decoded.replaced == decoded.text.count("\ufffd") == len(damage)
    assert decoded.text.replace("\ufffd", "") == FRENCH * 20 + " and more.\n" + FRENCH * 20


@given(st.integers(1, 400))
def test_utf8_that_is_cut_anywhere_is_the_text_up_to_there(size):
    data = (FRENCH + RUSSIAN + "🙂").encode()[:-size]
    decoded = decode(data, PATH)
    whole = data.decode(errors="ignore")
    assert decoded.encoding == "utf-8" and decoded.text == whole + "\ufffd" * decoded.replaced and decoded.replaced <= 1


def test_characters_of_replacement_that_were_there_are_no_damage():
    decoded = decode("It was \ufffd there.".encode() + "é".encode() * 9 + b"\xff", PATH)
    assert decoded.replaced == 1 and decoded.text.count("\ufffd") == 2


@pytest.mark.parametrize("encoding", ["shift_jis", "gb18030", "euc_kr", "utf-16", "utf-16-le"])
def test_a_last_character_that_is_cut_is_replaced_in_any_encoding(encoding):
    sentence = {"gb18030": CHINESE, "euc_kr": KOREAN}.get(encoding, JAPANESE).rstrip(".\n")
    decoded = decode((sentence * 20).encode(encoding)[:-1], PATH)
    assert decoded.text == (sentence * 20)[:-1] + "\ufffd" and decoded.replaced == 1


def test_one_long_line_is_no_obstacle():
    for text in (
        JAPANESE[:-1] * 3000,
        "plain words " * 9000 + JAPANESE[:-1] * 20,
        (ENGLISH + JAPANESE).replace("\n", "\r") * 9,
    ):
        text = text.replace("“", "").replace("”", "").replace("é", "").replace("–", "").replace("’", "")
        assert decode(text.encode("cp932"), PATH).text == text


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        bytes(range(256)) * 9,
        bytes(range(1, 32)) * 9,
        b"fine\x81\x8d\xfe\xdd" * 40,
        b"\x7fELF\2\1\1" + bytes(9) + b"\3\0>\0\1\0\0\0" * 99,
        b"a text and then" + bytes(1000),
    ],
)
def test_what_is_no_text_is_refused_by_name(data):
    with pytest.raises(UserError, match=r"^data\.source: notes\.txt is not (text|UTF-8)") as caught:
        decode(data, PATH)
    assert "\n" not in str(caught.value)


def test_doubt_is_refused_with_the_candidates_and_the_way_out():
    text = "There was smørrebrød on the table.\n" * 40  # Danish in Windows-1252, `ř` of Czech in Windows-1250
    with pytest.raises(UserError, match=r"perhaps cp1252 or cp1250 .*--set data\.encoding=NAME") as caught:
        decode(text.encode("cp1252"), PATH)
    assert "confidence 50 %" in str(caught.value)
    decoded = decode(text.encode("cp1252"), PATH, "cp1252")
    assert decoded.text == text and decoded.confidence is None


def test_a_few_doubtful_letters_in_a_long_text_are_no_reason_to_refuse_it():
    text = "There was some bread on the table.\n" * 300 + "Smørrebrød.\n"
    decoded = decode(text.encode("cp1252"), PATH)
    assert decoded.text == text and decoded.confidence == 0.5


def test_a_chosen_encoding_is_of_what_is_not_utf8():
    assert decode(RUSSIAN.encode("koi8-r"), PATH, "koi8-r").text == RUSSIAN
    assert decode(RUSSIAN.encode(), PATH, "koi8-r").text == RUSSIAN, "the other files of a folder"
    assert decode(RUSSIAN.encode("utf-16"), PATH, "koi8-r").text == RUSSIAN
    assert decode(RUSSIAN.encode("utf-16-le"), PATH, "utf-16-le").text == RUSSIAN
    assert decode(JAPANESE.encode("iso2022_jp"), PATH, "iso2022_jp").text == JAPANESE
    with pytest.raises(UserError, match=r"is not text in shift_jis: .* cannot be read"):
        decode(RUSSIAN.encode("cp1251"), PATH, "shift_jis")


@given(
    st.binary(max_size=300), st.sampled_from(["auto", "auto", "utf-7", "gb18030", "utf-16", "unicode_escape", "idna"])
)
def test_any_bytes_are_text_or_a_persons_mistake(data, encoding):
    try:
        text = decode(data, PATH, encoding).text
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert text.encode("utf-8").decode("utf-8") == text


@given(st.text(), st.sampled_from(["cp1251", "koi8-r", "gb18030", "utf-16-le", "utf-32-be", "cp932", "latin-1"]))
def test_so_is_any_text_in_any_encoding(text, encoding):
    try:
        decode(text.encode(encoding, "replace"), PATH)
    except UserError as error:
        assert "\n" not in str(error)
