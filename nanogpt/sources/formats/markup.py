"""HTML pages and EPUB books as text: what a reader would see, a paragraph a line, without menus and scripts."""

from __future__ import annotations

import codecs
import io
import posixpath
import re
import zipfile
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from nanogpt.sources.account import Account
from nanogpt.sources.decoding import decode
from nanogpt.sources.formats.archive import content
from nanogpt.sources.formats.compressed import Allowance
from nanogpt.sources.formats.family import LONGEST, PART, Text, TooLong, Unreadable, Wanted, whole
from nanogpt.units import MIB

_UNSEEN = {  # with what is in them
    "script", "style", "head", "noscript", "template", "nav", "footer", "aside", "form", "svg", "math", "iframe",
    "button", "select",
}  # fmt: skip
_LINES = "address article body dd div dl dt header li main section tbody thead tr"
_APART = "p blockquote h1 h2 h3 h4 h5 h6 ul ol dl table pre figure figcaption caption hr"
_BREAKS = dict.fromkeys(_LINES.split(), 1) | dict.fromkeys(_APART.split(), 2)  # line ends around an element
_BLANK = re.compile(r"[ \t\n\r\f]+")
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*>")
_DECLARED = re.compile(rb"""<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)\s*=\s*["']?\s*([\w.:-]{1,40})""", re.I)
_OF_NO_PAGE = ("idna", "punycode", "unicode-escape", "raw-unicode-escape", "utf-7")  # the first take hours for a page
_CONTAINER = "META-INF/container.xml"


def read_html(file: BufferedReader, name: str, wanted: Wanted, account: Account) -> Iterator[Text]:
    """The page, in the encoding that it declares where it is not UTF-8."""
    data = whole(file, PART)  # a tree takes 20 times the memory of its page
    declared = _DECLARED.search(data[:4096])
    encoding = wanted.encoding
    if encoding == "auto" and declared:
        encoding = _known(declared[1].decode("ascii"))
    decoded = decode(data, Path(name), encoding)
    account.note(decoded, name)
    yield Text(text_of(decoded.text))


def read_epub(file: BufferedReader, name: str, wanted: Wanted, account: Account) -> Iterator[Text]:
    """The book, in the order of its spine: one document."""
    allowance = Allowance(file.seek(0, io.SEEK_END))
    with zipfile.ZipFile(file) as book:
        container = _parsed(content(book, _CONTAINER, allowance))
        package = next((found.get("full-path") for found in container.iter("{*}rootfile")), None)
        if package is None:
            raise Unreadable("is no EPUB book: it names no package")
        described, folder = _parsed(content(book, package, allowance)), posixpath.dirname(package)
        places = {item.get("id"): item.get("href", "") for item in described.iter("{*}item")}
        spine = [places[idref] for item in described.iter("{*}itemref") if (idref := item.get("idref")) in places]
        names = [posixpath.normpath(posixpath.join(folder, unquote(place))) for place in spine]
        chapters = [content(book, chapter, allowance) for chapter in names]
    if sum(map(len, chapters)) > LONGEST:
        raise TooLong(f"more than {LONGEST // MIB} MiB in one book")
    decoded = [decode(chapter, Path(name), wanted.encoding) for chapter in chapters]
    for chapter in decoded[:1]:
        account.note(chapter, name)
    yield Text("\n\n".join(text for chapter in decoded if (text := text_of(chapter.text))))


def text_of(page: str) -> str:
    """The visible text of an HTML page: paragraphs apart by an empty line, white space as a browser shows it."""
    import lxml.etree  # with lxml.html 0.05 s, which a plain text does without
    import lxml.html

    page = _DECLARATION.sub("", page)  # lxml takes no text that says which bytes it was
    if not page.strip():
        return ""
    try:
        tree = lxml.html.document_fromstring(page, parser=lxml.html.HTMLParser(huge_tree=True))
    except lxml.etree.ParserError:  # comments alone, say
        return ""
    seen = _Seen()
    for event, element in lxml.etree.iterwalk(tree, events=("start", "end", "comment", "pi")):
        tag = element.tag if isinstance(element.tag, str) else ""
        if event == "start":
            seen.begin(tag)
            seen.add(element.text)
        else:
            seen.end(tag)
            seen.add(element.tail)
    return seen.text


class _Seen:
    """What a reader sees of the elements that begin and end, and of the text in them."""

    def __init__(self) -> None:
        self._parts = list[str]()
        self._line_ends = 0  # before the next text
        self._unseen = self._preformatted = 0  # elements that are open

    @property
    def text(self) -> str:
        return "".join(self._parts).strip()

    def begin(self, tag: str) -> None:
        self._unseen += tag in _UNSEEN
        self._preformatted += tag == "pre"
        self._break(tag)
        if tag == "li":
            self.add("- ")
        elif tag in ("td", "th"):
            self.add(" ")

    def end(self, tag: str) -> None:
        self._unseen -= tag in _UNSEEN
        self._preformatted -= tag == "pre"
        if tag == "br":
            self._line_ends = min(2, self._line_ends + 1)
        else:
            self._break(tag)

    def add(self, text: str | None) -> None:
        if not text or self._unseen:
            return
        if not self._preformatted:
            text = _BLANK.sub(" ", text)
            if self._line_ends or (self._parts and self._parts[-1].endswith((" ", "\n"))):
                text = text.removeprefix(" ")
        if text:
            self._parts += ["\n" * self._line_ends, text]
            self._line_ends = 0

    def _break(self, tag: str) -> None:
        self._line_ends = max(self._line_ends, _BREAKS.get(tag, 0))


def _known(encoding: str) -> str:
    """`encoding` as Python knows it, as browsers read it; "auto" for one that it does not know, or no page is in."""
    try:
        name = codecs.lookup(encoding).name
        b"a".decode(encoding, "replace")  # refuses those that are not of texts, such as hex
    except (LookupError, ValueError):
        return "auto"
    if name in _OF_NO_PAGE:
        return "auto"
    return "cp1252" if name in ("iso8859-1", "ascii") else name


def _parsed(data: bytes) -> Any:  # lxml has no types
    """The XML of a book. Raises Unreadable."""
    from lxml import etree  # as above

    try:
        return etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True))
    except etree.XMLSyntaxError as error:
        raise Unreadable(f"is no EPUB book ({error.msg})") from None
