"""Talk with a model: `python examples/chat_bot.py MODEL_FOLDER`. An empty line or the end of the input ends it.

These models continue text; they were not taught to answer. So the talk is written as a play, in which the model
speaks the next part (nanogpt/inference/conversation.py). `nanogpt chat` does the same, with commands.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from nanogpt.faults import CorruptFileError, NonFiniteError, UserError
from nanogpt.inference import prompts
from nanogpt.inference.conversation import Message, Play
from nanogpt.inference.engine import Engine
from nanogpt.printable import show


def main() -> None:
    parser = argparse.ArgumentParser(description="Talk with a model, as two persons of a play.")
    parser.add_argument("folder", type=Path, help="an export or a model's training folder")
    parser.add_argument("--you", default="ROMEO", help="your part (default: %(default)s)")
    parser.add_argument("--bot", default="JULIET", help="the model's part (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=150, help="longest answer (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.7, help="0: the likeliest (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="the same seed, the same answers (default: others each time)")
    parser.add_argument("--raw", action="store_true", help="let control characters in the text reach the terminal")
    arguments = parser.parse_args()

    remark(f"loading {arguments.folder} ...")
    engine = Engine.from_folder(arguments.folder)
    play = Play(arguments.you, arguments.bot)
    talk: list[Message] = []
    for turn, typed in enumerate(lines_of_the_person(play.user)):
        talk.append(Message("user", prompts.checked(typed, engine.tokenizer, remark, allow_unknown=True)))
        show(f"{play.assistant}: ")
        answer = ""
        pieces = engine.generate(
            play.prompt(talk),
            max_new_tokens=arguments.tokens,
            temperature=arguments.temperature,
            seed=None if arguments.seed is None else arguments.seed + turn,
            stop=play.stops,
        )
        for piece in pieces:
            show(piece, arguments.raw)
            answer += piece
        show("\n\n")
        talk.append(Message("assistant", answer))


def lines_of_the_person(name: str) -> Iterator[str]:
    """What is typed, or what comes through a pipe, shown as if it were typed."""
    while True:
        try:
            words = input(f"{name}: ").strip()
        except EOFError:
            print()
            return
        if not sys.stdin.isatty():
            print(words)
        if not words:
            return
        yield words


def remark(words: str) -> None:
    print(f"chat_bot.py: {words}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except (UserError, CorruptFileError, NonFiniteError) as mistake:
        remark(str(mistake))
        sys.exit(2)
    except KeyboardInterrupt:
        print()
