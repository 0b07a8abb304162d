"""Texts that follow many prompts: written together, given one behind the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, groupby

from nanogpt.decoders.protocol import Decoder
from nanogpt.faults import NonFiniteError, UserError
from nanogpt.inference.batch import Batch, Writing
from nanogpt.inference.engine import Engine
from nanogpt.inference.options import Finish, Options, Piece
from nanogpt.inference.speculation import speculate

AT_ONCE = 16  # texts; each has its row of keys and values


@dataclass(frozen=True)
class Request:
    """A prompt, how it is continued, and in how many texts. `place`: where it was read, for messages."""

    prompt: str
    options: Options
    copies: int = 1
    place: str = ""


@dataclass(eq=False)
class Text:
    """A text of a request, its `sample` counted from 0. `finish` or `error` say that it has ended."""

    request: Request
    sample: int
    finish: Finish | None = None
    error: NonFiniteError | UserError | None = None
    prompt_tokens: int | None = None
    new_tokens: int | None = None  # not known of a search with beams
    slid: bool = False  # it became longer than what the model looks back on
    waiting: deque[Piece] = field(default_factory=deque)  # written and not given yet

    @property
    def seed(self) -> int | None:
        return self.request.options.seed_of(self.sample)

    @property
    def ended(self) -> bool:
        return self.finish is not None or self.error is not None

    def follow(self, writing: Writing) -> None:
        """Take over what is known of it by now."""
        self.finish, self.error, self.slid = writing.finish, writing.error, writing.slid
        self.prompt_tokens, self.new_tokens = writing.prompt_tokens, writing.new_tokens


def in_order(engine: Engine, requests: Iterable[Request]) -> Iterator[tuple[Text, Iterator[Piece]]]:
    """Each text with its pieces as they come, in the requests' order; AT_ONCE are written at a time, one where a
    smaller model guesses.

    Behind its pieces a text has ended. One for which the model computes NaN ends with an error; the others go on.
    """
    written = _pieces(engine, requests) if engine.draft is None else _guessed(engine, engine.draft, requests)
    for text, pairs in groupby(written, lambda pair: pair[0]):
        yield text, (piece for _, piece in pairs)


def _pieces(engine: Engine, requests: Iterable[Request]) -> Iterator[tuple[Text, Piece]]:
    batch, unbegun = Batch(engine), _in_groups(requests)
    texts = deque[Text]()  # in order; the first is the one whose pieces are given
    by_writing: dict[Writing, Text] = {}
    while True:
        while len(batch) < AT_ONCE and (group := next(unbegun, None)):
            texts += group
            request = group[0].request
            if request.options.beams > 1:
                _search(engine, group[0])
            else:
                options = replace(request.options, seed=group[0].seed)
                by_writing |= zip(batch.add(request.prompt, options, len(group)), group, strict=True)
        if not texts:
            return
        for writing, piece in batch.step():
            text = by_writing[writing]
            text.waiting.append(piece)
            text.follow(writing)
            if text.ended:
                del by_writing[writing]
        while texts:
            while texts[0].waiting:
                yield texts[0], texts[0].waiting.popleft()
            if not texts[0].ended:
                break
            texts.popleft()


def _guessed(engine: Engine, draft: Decoder, requests: Iterable[Request]) -> Iterator[tuple[Text, Piece]]:
    for text in chain.from_iterable(_in_groups(requests)):
        if text.request.options.beams > 1:
            _search(engine, text)
            yield from ((text, piece) for piece in text.waiting)
            continue
        writing = Writing(engine, text.request.prompt, replace(text.request.options, seed=text.seed))
        try:
            for piece in speculate(engine, draft, writing):
                text.follow(writing)
                yield text, piece
        except (NonFiniteError, UserError):  # writing.error
            text.follow(writing)
            yield text, Piece("")


def _in_groups(requests: Iterable[Request]) -> Iterator[list[Text]]:
    """The texts of each request, those that read its prompt together in one list."""
    for request in requests:
        for start in range(0, request.copies, AT_ONCE):
            yield [Text(request, sample) for sample in range(start, min(start + AT_ONCE, request.copies))]


def _search(engine: Engine, text: Text) -> None:
    """Write a text with beams, which know nothing of other texts."""
    try:
        for piece in engine.stream(text.request.prompt, text.request.options):
            text.waiting.append(piece)
            text.finish = piece.finish
    except (NonFiniteError, UserError) as error:
        text.waiting.append(Piece(""))
        text.error = error
