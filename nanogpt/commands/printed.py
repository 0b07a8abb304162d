"""Texts on stdout: prompt and text as they come, or a line of JSON for each."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace

from nanogpt.commands.texts import Request, Text, in_order
from nanogpt.commands.typed import InterruptNoticed
from nanogpt.faults import UserError
from nanogpt.inference import prompts
from nanogpt.inference.engine import Engine
from nanogpt.inference.options import Piece, Token
from nanogpt.printable import show

DONE, FAILED = 0, 2


class Printer:
    """Prints what `engine` writes. `remark` gets what a person should know besides."""

    def __init__(
        self, engine: Engine, as_json: bool, raw: bool, allow_unknown: bool, remark: Callable[[str], None]
    ) -> None:
        self.remark = remark
        self.engine, self.raw, self.allow_unknown = engine, raw, allow_unknown
        self._print = self._print_json if as_json else self._print_plain
        self._said_that_it_slides = False

    def write(self, requests: Sequence[Request], interrupt: InterruptNoticed | None = None) -> int:
        """The exit code. Every prompt and option is checked before the first text: UserError."""
        requests = [self._checked(request) for request in requests]
        count, exit_code = sum(request.copies for request in requests), DONE
        for number, (text, pieces) in enumerate(in_order(self.engine, requests), 1):
            self._print(text, _until(interrupt, pieces), f"--- {number} of {count} ---\n" if count > 1 else "")
            if text.error:
                self.remark(f"{_named(text.request)}{text.error}")
                exit_code = FAILED
            if text.slid:
                self._say_that_it_slides()
            if interrupt and interrupt.came:
                break
        return exit_code

    def write_until_interrupted(self, request: Request) -> None:
        """write(), which Ctrl-C ends."""
        with InterruptNoticed() as interrupt:
            self.write([request], interrupt)
        show("\n")

    def _checked(self, request: Request) -> Request:
        tokenizer = self.engine.tokenizer
        try:
            request.options.check(tokenizer.vocab_size)
            prompt = prompts.checked(request.prompt, tokenizer, self.remark, self.allow_unknown)
        except UserError as error:
            raise UserError(f"{_named(request)}{error}") from None
        if remark := prompts.left_out(prompt, tokenizer, self.engine.context):
            self.remark(f"{_named(request)}{remark}")
            self._said_that_it_slides = True
        return replace(request, prompt=prompt)

    def _say_that_it_slides(self) -> None:
        if not self._said_that_it_slides:
            context = self.engine.context
            newest = f"{max(1, context // 2):,} to {context:,}"
            self.remark(f"the model sees {context:,} tokens: beyond that it wrote from the newest {newest} alone")
        self._said_that_it_slides = True

    def _print_plain(self, text: Text, pieces: Iterator[Piece], heading: str) -> None:
        show(f"{heading}{text.request.prompt}", self.raw)
        tokens: list[Token] = []
        for piece in pieces:
            show(piece.text, self.raw)
            tokens += piece.tokens
        show("\n")
        for token in tokens:
            show(f"{_line_of(token)}\n")

    def _print_json(self, text: Text, pieces: Iterator[Piece], _: str) -> None:
        written = list(pieces)
        record = {
            "prompt": text.request.prompt,
            "sample": text.sample,
            "seed": text.seed,
            "text": "".join(piece.text for piece in written),
            "finish": text.finish,
            "error": str(text.error) if text.error else None,
            "prompt_tokens": text.prompt_tokens,
            "new_tokens": text.new_tokens,
            "slid": text.slid,
        }
        if text.request.options.alternatives is not None:
            record["tokens"] = [asdict(token) for piece in written for token in piece.tokens]
        show(json.dumps(record, ensure_ascii=False) + "\n", self.raw)


def _until(interrupt: InterruptNoticed | None, pieces: Iterator[Piece]) -> Iterator[Piece]:
    for piece in pieces:
        yield piece
        if interrupt and interrupt.came:
            return


def _named(request: Request) -> str:
    return f"{request.place}: " if request.place else ""


def _line_of(token: Token) -> str:
    """'e'   62 %   'e' 62 %, 'o' 11 %, ...: a token, its probability, and what could have come."""
    likeliest = ", ".join(f"{other.text!r} {_percent(other.logprob)}" for other in token.alternatives)
    return f"{token.text!r:12} {_percent(token.logprob):>7}   {likeliest}".rstrip()


def _percent(logprob: float) -> str:
    return f"{100 * math.exp(logprob):.1f} %"
