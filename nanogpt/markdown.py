"""Foreign text as Markdown that it cannot break: names of files and what models wrote stay the text that they are."""

import re

# Control characters, unpaired surrogates, line and paragraph separators, and what turns the direction of writing.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def inline(text: str) -> str:
    """`text` as one line that shows exactly its characters: nothing active, no table broken."""
    text = one_line(text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)
    # what would begin a heading, a list or a rule at the start of a line
    text = re.sub(r"^([-+=#])", r"\\\1", text)
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", text)


def code(text: str) -> str:
    """`text` as a code span on one line, "" for nothing: its fence is longer than any run of backticks in it."""
    text = one_line(text)
    if not text:
        return ""
    fence = "`" * (_longest_run(text, "`") + 1)
    edge = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{edge}{text}{edge}{fence}"


def block(text: str, language: str = "text") -> str:
    """`text` as a fenced block that it cannot leave."""
    text = printable(text).strip("\n")
    fence = "`" * max(3, _longest_run(text, "`") + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def one_line(text: str) -> str:
    """`text` with each run of white space as one space, and visible signs for what cannot be shown."""
    return " ".join(printable(text).split())


def printable(text: str) -> str:
    """Line ends as \\n; what a reader does not see, but a program obeys, as U+FFFD."""
    return _UNSEEN.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def _longest_run(text: str, character: str) -> int:
    return max((len(run) for run in re.findall(f"{re.escape(character)}+", text)), default=0)
