"""Talk with a model: `python examples/chat_bot.py MODEL_FOLDER`. An empty line or the end of the input ends it.

These models continue text, they were not taught to answer. So the talk is written as a play, in which the model
speaks the next part: who speaks, a colon, the words, an empty line. On a play such as tiny Shakespeare this is the
form of the training text itself.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from nanogpt.faults import CorruptFileError, UserError
from nanogpt.inference.engine import Engine


def main() -> None:
    parser = argparse.ArgumentParser(description="Talk with a model, as two persons of a play.")
    parser.add_argument("folder", type=Path, help="an export or a model's training folder")
    parser.add_argument("--you", default="ROMEO", help="who you are (default: %(default)s)")
    parser.add_argument("--bot", default="JULIET", help="who answers (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=150, help="longest answer (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.7, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    arguments = parser.parse_args()

    engine = Engine.from_folder(arguments.folder)
    play = ""
    for turn, words in enumerate(lines_of_the_person(arguments.you)):
        play += f"{arguments.you}:\n{words}\n\n{arguments.bot}:\n"
        print(f"{arguments.bot}: ", end="", flush=True)
        answer = ""
        pieces = engine.generate(
            play,
            max_new_tokens=arguments.tokens,
            temperature=arguments.temperature,
            seed=arguments.seed + turn,
            stop="\n\n",
        )
        for piece in pieces:
            print(piece, end="", flush=True)
            answer += piece
        print("\n")
        play += f"{answer}\n\n"


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


if __name__ == "__main__":
    try:
        main()
    except (UserError, CorruptFileError) as mistake:
        print(f"chat_bot.py: {mistake}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print()
