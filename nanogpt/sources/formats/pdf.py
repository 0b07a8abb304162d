"""PDF documents: the text of their pages, in the order in which it is drawn."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from io import BufferedReader

from nanogpt.sources.account import Account
from nanogpt.sources.formats.family import Text, Unreadable, Wanted


def read_pdf(file: BufferedReader, name: str, wanted: Wanted, account: Account) -> Iterator[Text]:
    """The document, its pages apart by an empty line. Raises Unreadable without pypdf, or for a password."""
    try:
        import pypdf  # an extra; 0.16 s
    except ImportError:
        raise Unreadable("is a PDF: pip install 'nanogpt-autopilot[documents]' reads them") from None
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it remarks on each small fault of a file
    try:
        document = pypdf.PdfReader(file)
        is_locked = document.is_encrypted and not document.decrypt("")
        pages = [] if is_locked else [page.extract_text().strip() for page in document.pages]
    except Exception as error:  # of damaged files it raises whatever went wrong in it: KeyError, RecursionError ...
        raise Unreadable(f"is no PDF that can be read ({type(error).__name__})") from None
    if is_locked:
        raise Unreadable("needs a password")
    account.encodings["pdf"] += 1
    yield Text("\n\n".join(page for page in pages if page))
