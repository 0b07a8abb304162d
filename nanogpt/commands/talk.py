"""A talk on a terminal or through a pipe: what is typed is the person's next words, or a command such as /help."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from nanogpt import durable
from nanogpt.commands import saved_talk
from nanogpt.commands.arguments import require_file
from nanogpt.commands.saved_talk import SavedMessage, SavedTalk
from nanogpt.commands.typed import BOLD, PLAIN, InterruptNoticed, Typed, is_coloured, note
from nanogpt.faults import UserError, nearest, suggestion
from nanogpt.inference import prompts
from nanogpt.inference.conversation import Message, Play
from nanogpt.inference.engine import Engine
from nanogpt.inference.options import Options
from nanogpt.printable import show

OFF = "off"


@dataclass(frozen=True)
class Command:
    """`argument`: how the help names what may follow."""

    run: Callable[[str], None]
    argument: str
    help: str


@dataclass(frozen=True)
class Setting:
    """An option of the answers that a command changes."""

    option: str
    kind: type[int] | type[float]
    help: str


SETTINGS = {
    "temperature": Setting("temperature", float, "0: always the likeliest token"),
    "top-k": Setting("top_k", int, "draw from the N likeliest tokens"),
    "top-p": Setting("top_p", float, "draw from the likeliest that reach this probability"),
    "min-p": Setting("min_p", float, "leave out tokens below X times the likeliest"),
    "repetition-penalty": Setting("repetition_penalty", float, "above 1: used tokens come less often"),
    "tokens": Setting("max_new_tokens", int, "longest answer"),
    "seed": Setting("seed", int, "the same seed gives the same answers"),
}
DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Options)}
HELP_BELOW = f"""\
A setting without a value shows it; {OFF}, as in /top-k {OFF}, resets it.
A line that ends with \\ continues in the next one.
\"\"\" begins and ends a text of many lines.
Begin with // to say words that begin with /."""


class Talk:
    """The messages so far, and what the next answer depends on."""

    def __init__(self, engine: Engine, play: Play, options: Options, model: Path, raw: bool = False) -> None:
        """Raises UserError for an option out of range, and for names that the model cannot read."""
        options.check(engine.tokenizer.vocab_size)
        prompts.checked(play.prompt([]), engine.tokenizer, note, allow_unknown=True)
        self.engine, self.play, self.options = engine, play, options
        self.messages: list[Message] = []
        self._model, self._raw = model, raw
        self._answers = 0  # the seed counts on with them, else the same words would get the same answer
        self._first = 0  # of the messages behind the system's: the first that the model still sees
        self._file: Path | None = None
        self._commands = {
            "help": Command(self._help, "", "this list"),
            "retry": Command(self._retry, "", "another answer to your last words"),
            "reset": Command(self._reset, "", "begin the talk anew; settings stay"),
            "save": Command(self._save, "FILE", "write the talk to a file"),
            "load": Command(self._load, "FILE", "continue the talk of a file, of the page's too"),
            "system": Command(self.set_system, "TEXT", "what stands before the talk"),
            "text": Command(self._show_text, "", "the talk as the model reads it"),
            **{name: self._setting(name) for name in SETTINGS},
            "quit": Command(self._quit, "", "leave, as Ctrl-D does"),
        }

    @property
    def completions(self) -> list[str]:
        return [f"/{name} " if command.argument else f"/{name}" for name, command in self._commands.items()]

    def hold(self, typed: Typed) -> None:
        """Take what is typed until the person leaves."""
        typed.each(lambda: f"{self.play.user}: ", self.take)

    def take(self, text: str) -> None:
        """Answer words, or obey a command. Raises UserError, and EOFError at /quit."""
        text = text.strip()
        if text.startswith("/") and not text.startswith("//"):
            name, argument, *_ = [*text[1:].split(maxsplit=1), "", ""]
            self._obey(name, argument.strip())
        elif text:
            self._answer(text.removeprefix("/") if text.startswith("//") else text)

    def set_system(self, text: str) -> None:
        """Let `text` stand before the talk; nothing where it is OFF."""
        if text:
            system = [] if text == OFF else [Message("system", self._checked(text))]
            self.messages, self._first = [*system, *self._spoken], 0
        note(f"system: {self._system[0].content if self._system else OFF}")

    # The talk

    @property
    def _system(self) -> list[Message]:
        return [message for message in self.messages if message.role == "system"]

    @property
    def _spoken(self) -> list[Message]:
        return [message for message in self.messages if message.role != "system"]

    def _checked(self, text: str) -> str:
        text = prompts.checked(text, self.engine.tokenizer, note, allow_unknown=True)
        self.engine.tokenizer.encode(text)  # a closed alphabet refuses it here, before it is part of the talk
        return text

    def _answer(self, words: str) -> None:
        self.messages.append(Message("user", self._checked(words)))
        self._speak()

    def _speak(self) -> None:
        """Show the model's next words as they come. Ctrl-C ends them; what is said is said."""
        seed = self.options.seed_of(self._answers)
        options = replace(self.options, stop=(*self.options.stops, *self.play.stops), seed=seed)
        pieces = self.engine.stream(self._prompt(), options)
        self._show_name(self.play.assistant)
        self._answers += 1
        answer, finish = "", None
        try:
            with InterruptNoticed() as interrupt:
                for piece in pieces:
                    show(piece.text, self._raw)
                    answer, finish = answer + piece.text, piece.finish
                    if interrupt.came:
                        break
        finally:
            show("\n")
            if answer.strip():
                self.messages.append(Message("assistant", answer))
        if finish == "length":
            note(f"(cut off after {options.max_new_tokens:,} tokens; /tokens changes that)")
        show("\n")

    def _prompt(self) -> str:
        """What the model reads: the talk, or the newest part of it that leaves room for an answer.

        A talk that is too long loses half at once, so that for some turns it begins alike and little is read again.
        """
        room = self.engine.context - min(self.options.max_new_tokens, self.engine.context // 2)
        if self._length(self._seen()) > room:
            saw_all = self._first == 0
            while self._length(self._seen()) > room // 2 and self._first < len(self._spoken) - 1:
                self._first += 1
            if saw_all and self._first:
                sees = f"sees {self.engine.context:,} tokens, too few for all of this talk"
                note(f"(the model {sees}: it forgets the oldest)")
        return self._seen()

    def _seen(self) -> str:
        return self.play.prompt([*self._system, *self._spoken[self._first :]])

    def _length(self, text: str) -> int:
        return len(self.engine.tokenizer.encode(text))

    def _show_name(self, name: str) -> None:
        name = f"{name}: "
        show(f"{BOLD}{name}{PLAIN}" if is_coloured(sys.stdout) else name, raw=True)

    # Commands

    def _obey(self, name: str, argument: str) -> None:
        if name not in self._commands:
            likely = [known for known in self._commands if known.startswith(name)] if name else []
            near = suggestion(f"/{likely[0]}") if likely else nearest(f"/{name}", map("/{}".format, self._commands))
            raise UserError(f"/{name}: no such command{near}; /help lists them")
        self._commands[name].run(argument)

    def _help(self, _: str) -> None:
        for name, command in self._commands.items():
            show(f"  {f'/{name} {command.argument}':22} {command.help}\n")
        show(f"{HELP_BELOW}\n\n")

    def _retry(self, _: str) -> None:
        if self.messages and self.messages[-1].role == "assistant":
            self.messages.pop()
        if not self._spoken:
            raise UserError("/retry: you have not said anything yet")
        self._speak()

    def _reset(self, _: str) -> None:
        self.messages, self._first, self._answers = self._system, 0, 0
        note("The talk begins anew.")

    def _save(self, name: str) -> None:
        path = self._path("save", name)
        require_file("/save", path)
        if path.exists() and path != self._file:
            raise UserError(f"/save {path}: is there already; choose another name")
        talk = SavedTalk(
            messages=[SavedMessage(role=message.role, content=message.content) for message in self.messages],
            you=self.play.user,
            bot=self.play.assistant,
            model=str(self._model),
        )
        try:
            durable.write_json(path, talk.model_dump())
        except OSError as error:
            raise UserError(f"/save {path}: {error.strerror}") from None
        self._file = path
        note(f"saved {len(self._spoken):,} messages to {path}")

    def _load(self, name: str) -> None:
        path = self._path("load", name)
        try:
            talk = saved_talk.read(path)
        except OSError as error:
            raise UserError(f"/load {path}: {error.strerror}") from None
        except UserError as error:
            raise UserError(f"/load {path}: {error}") from None
        self.play = Play(talk.you or self.play.user, talk.bot or self.play.assistant)
        self.messages = [Message(message.role, message.content) for message in talk.messages]
        self._first = 0
        self._file = path if talk.model else None  # others' files hold what /save would leave out
        for message in self._spoken:
            self._show_name(self.play.user if message.role == "user" else self.play.assistant)
            show(f"{message.content}\n\n", self._raw)

    def _path(self, command: str, name: str) -> Path:
        if not name or "\0" in name:
            raise UserError(f"/{command}: needs the name of a file")
        return Path(os.path.expanduser(name))

    def _show_text(self, _: str) -> None:
        show(f"{self._seen()}\n", self._raw)

    def _setting(self, name: str) -> Command:
        return Command(
            lambda text: self._set(name, text), "N" if SETTINGS[name].kind is int else "X", SETTINGS[name].help
        )

    def _set(self, name: str, text: str) -> None:
        option, kind = SETTINGS[name].option, SETTINGS[name].kind
        if text:
            try:
                change: dict[str, Any] = {option: DEFAULTS[option] if text == OFF else kind(text)}
            except ValueError:
                whole = "whole " * (kind is int)
                raise UserError(f"/{name}: found {text}, should be a {whole}number, or {OFF}") from None
            changed = replace(self.options, **change)
            changed.check(self.engine.tokenizer.vocab_size)
            self.options = changed
        value = getattr(self.options, option)
        note(f"{name}: {OFF if value is None else value}")

    def _quit(self, _: str) -> None:
        raise EOFError
