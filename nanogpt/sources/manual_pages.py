"""Manual pages as plain text: what their macros (man and mdoc) mean for a reader, without groff.

groff takes 20 ms a page, so minutes for the thousands that a system has; this reads a thousand pages a second. What
it does not know, such as tables and equations, it leaves out.
"""

from __future__ import annotations

import re

_SPECIAL = {
    "aq": "'", "dq": '"', "cq": "'", "oq": "'", "lq": '"', "rq": '"', "bu": "•", "em": "—", "en": "–", "hy": "-",
    "mi": "-", "co": "©", "rg": "®", "tm": "™", "ga": "`", "ha": "^", "ti": "~", "rs": "\\", "bv": "|", "ba": "|",
    "sl": "/", "at": "@", "sh": "#", "Do": "$", "lB": "[", "rB": "]", "lC": "{", "rC": "}", "->": "->", "<-": "<-",
    ">=": ">=", "<=": "<=", "!=": "!=", "+-": "±", "mu": "×", "de": "°", "ss": "ß", ":a": "ä", ":o": "ö", ":u": "ü",
    "'e": "é", "`e": "è", "'a": "á", "Fo": "«", "Fc": "»", "S": "®", "R": "®", "Tm": "™",
}  # fmt: skip
# In this order: a comment; a special character; a string; fonts, sizes, registers, motions; what stands for itself.
_ESCAPE = re.compile(
    r'\\(?:"[^\n]*|\((?P<two>..)|\[(?P<long>[^\]\n]*)\]|\*(?:\((?P<string>..)|\[(?P<strings>[^\]\n]*)\]|(?P<one>.))'
    r"|[fFgkmMnY](?:\(..|\[[^\]\n]*\]|.)|s[-+]?(?:\(\d\d|\[[^\]\n]*\]|'[^'\n]*'|\d\d?)"
    r"|[bhlLvwNoRSXxAB]'[^'\n]*'|z.|(?P<itself>[-'`./ \\e~0])|.|\n)"
)
_ITSELF = {"e": "\\", "~": " ", "0": " "}
_PARAGRAPHS = {"PP", "P", "LP", "sp", "Pp", "RS", "RE", "HP"}
_LINES = {"br", "TP", "TQ", "IP", "It", "Bl", "El", "Bd", "Ed", "EE", "fi", "EX", "nf"}
_HEADINGS = {"SH", "SS", "Sh", "Ss"}
_FONTS = {"B", "I", "SM", "SB", "R"}
_MIXED = {"BR", "RB", "BI", "IB", "IR", "RI"}
_ARGUMENT = {"UR", "MT", "URL"}
_KEPT_LINES = {"nf": True, "EX": True, "fi": False, "EE": False, "Bd": True, "Ed": False}
# mdoc: what stands around the arguments of a macro; those that stand alone are names of things.
_AROUND = {
    "Op": ("[", "]"), "Dq": ('"', '"'), "Qq": ('"', '"'), "Sq": ("'", "'"), "Ql": ("'", "'"), "Pq": ("(", ")"),
    "Bq": ("[", "]"), "Brq": ("{", "}"), "Aq": ("<", ">"), "Fl": ("-", ""),
}  # fmt: skip
_SIGNS = {"Oo": "[", "Oc": "]", "Ux": "UNIX", "Nd": "- "}
_MDOC = {
    "Nm", "Ar", "Pa", "Cm", "Ev", "Va", "Vt", "Fa", "Ft", "Fn", "Dv", "Er", "Em", "Sy", "Li", "Ic", "Xr", "Lk", "Mt",
    "An", "In", "Ns", "No", "Cd", "Ad", "Tn", "St",
}  # fmt: skip
_PUNCTUATION = frozenset(".,;:?!)]")
_DEFINITION = re.compile(r"^[.'][ \t]*(?:de1?|am|ig)\b.*?^[.']\.[ \t]*$\n?", re.M | re.S)
_BLANK = re.compile("[ \t]+")


def text_of(page: str) -> str:
    """The text of a manual page; "" for one that only leads to another."""
    if "\n.so " in f"\n{page[:200]}":
        return ""
    written = _Page()
    for line in _DEFINITION.sub("", page).replace("\\\n", "").split("\n"):
        written.add(line)
    return written.text


class _Page:
    """Gathers words into paragraphs, and lines where they are kept as they are."""

    def __init__(self) -> None:
        self._paragraphs, self._lines, self._words = list[str](), list[str](), list[str]()
        self._keeps_lines = False
        self._name = ""
        self._depth = 0  # of braces of a condition that is left out

    @property
    def text(self) -> str:
        self._end_paragraph()
        return "\n\n".join(self._paragraphs)

    def add(self, line: str) -> None:
        if self._depth:
            self._depth += line.count("\\{") - line.count("\\}")
        elif line[:1] in (".", "'"):
            self._request(line[1:].lstrip())
        elif not line.strip():
            self._end_paragraph()
        else:
            self._text(_plain(line))

    def _text(self, text: str) -> None:
        if self._keeps_lines or text[:1] == " ":
            self._end_line()
            self._lines.append(text.rstrip())
        elif text := _BLANK.sub(" ", text).strip():
            self._words.append(text)

    def _request(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        name = name.rstrip()
        if name in ("if", "ie", "el", "while"):
            self._depth = max(0, line.count("\\{") - line.count("\\}"))
        elif name in _HEADINGS:
            self._end_paragraph()
            self._paragraphs.append(" ".join(_arguments(rest)))
        elif name in _PARAGRAPHS:
            self._end_paragraph()
        elif name in _LINES:
            self._end_line()
            self._keeps_lines = _KEPT_LINES.get(name, self._keeps_lines)
            if name == "IP":
                self._words += _arguments(rest)[:1]
            elif name == "It":
                self._text(self._mdoc(rest))
        elif name in _FONTS | _ARGUMENT:
            self._text(" ".join(_arguments(rest)))
        elif name in _MIXED:
            self._text("".join(_arguments(rest)))
        elif name in _MDOC or name in _AROUND or name in _SIGNS:
            self._text(self._mdoc(f"{name} {rest}"))

    def _mdoc(self, line: str) -> str:
        """The words of a line of mdoc: macros among them say what stands around the words after them."""
        words = _arguments(line)
        if words[:1] == ["Nm"]:  # alone, it is the name that the page gave first
            self._name = self._name or " ".join(words[1:2])
            words[1:] = words[1:] if words[1:2] and words[1] not in _PUNCTUATION else [self._name, *words[1:]]
        if words[:1] == ["Xr"] and len(words) > 2:
            words[1:3] = [f"{words[1]}({words[2]})"]
        out, closing = list[str](), list[str]()
        is_joined = True
        for word in words:
            if word in _AROUND:
                before, after = _AROUND[word]
                out.append(before if is_joined else f" {before}")
                closing.append(after)
                is_joined = True
            elif word in _SIGNS:
                out.append(_SIGNS[word])
                is_joined = word == "Oo"
            elif word in _MDOC:
                is_joined = is_joined or word == "Ns"
            else:
                out.append(word if is_joined or word in _PUNCTUATION else f" {word}")
                is_joined = False
        return "".join(out) + "".join(reversed(closing))

    def _end_line(self) -> None:
        if self._words:
            self._lines.append(" ".join(self._words))
            self._words = []

    def _end_paragraph(self) -> None:
        self._end_line()
        if self._lines:
            self._paragraphs.append("\n".join(self._lines))
            self._lines = []


def _plain(text: str) -> str:
    return _ESCAPE.sub(_escaped, text) if "\\" in text else text


def _escaped(found: re.Match[str]) -> str:
    if (name := found["two"] or found["long"]) is not None:
        return _SPECIAL.get(name) or _by_number(name)
    if (name := found["string"] or found["strings"] or found["one"]) is not None:
        return _SPECIAL.get(name, "")
    itself = found["itself"] or ""
    return _ITSELF.get(itself, itself)


def _by_number(name: str) -> str:
    """\\[u00E9] and \\[char233]."""
    for prefix, base in (("u", 16), ("char", 10)):
        digits = name.removeprefix(prefix)
        try:
            return chr(int(digits, base)) if digits != name else ""
        except (ValueError, OverflowError):
            continue
    return ""


def _arguments(line: str) -> list[str]:
    """The arguments of a request: words, or what stands in double quotes."""
    line = line.strip()
    if '"' not in line:
        return _plain(line).split()
    words = re.findall(r'"((?:[^"]|"")*)"?|(\S+)', line)
    return [_plain(quoted.replace('""', '"') or word) for quoted, word in words]
