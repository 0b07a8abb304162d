"""Talk with a model. It continues text and was not taught to answer: you write a play together, a part each."""

from __future__ import annotations

import argparse

from nanogpt.commands.writing import add_writing, options_of

HELP = "talk with a model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_writing(parser, tokens=150)
    parser.add_argument("--system", metavar="TEXT", help="text before the conversation, as a scene before a play")
    parser.add_argument("--you", default="ROMEO", metavar="NAME", help="your part (default: %(default)s)")
    parser.add_argument("--bot", default="JULIET", metavar="NAME", help="the model's part (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Talk until the person leaves."""
    from nanogpt.commands.opened_model import description, open_engine  # what computes: --help does without
    from nanogpt.commands.talk import Talk
    from nanogpt.commands.typed import Typed, history_file, note
    from nanogpt.inference.conversation import Play

    engine = open_engine(arguments)
    talk = Talk(engine, Play(arguments.you, arguments.bot), options_of(arguments), arguments.folder, arguments.raw)
    note(description(engine, arguments.folder))
    parts = f"you are {arguments.you}, it is {arguments.bot}"
    note(f"It continues text and was not taught to answer. So you write a play together: {parts}.")
    note("/help lists commands, Ctrl-C stops an answer, Ctrl-D leaves.")
    note("")
    if arguments.system:
        talk.set_system(arguments.system)
    with Typed(None if arguments.no_history else history_file("chat"), talk.completions) as typed:
        talk.hold(typed)
    return 0
