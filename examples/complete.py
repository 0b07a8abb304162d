"""Complete a text: `python examples/complete.py MODEL_FOLDER ["Beginning of a text"] [--tokens 200] [--seed 1]`.

MODEL_FOLDER is an export of a run (exports/...) or a model's training folder (checkpoints/...).
"""

import argparse
import sys
from pathlib import Path

from nanogpt.faults import CorruptFileError, UserError
from nanogpt.inference.engine import Engine


def main() -> None:
    parser = argparse.ArgumentParser(description="Write what could follow a text.")
    parser.add_argument("folder", type=Path, help="an export or a model's training folder")
    parser.add_argument("prompt", nargs="?", default="First Citizen:\n", help="the beginning (default: %(default)r)")
    parser.add_argument("--tokens", type=int, default=200, help="how many to write (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.7, help="0: the likeliest (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="another seed, another text (default: %(default)s)")
    arguments = parser.parse_args()

    engine = Engine.from_folder(arguments.folder)
    pieces = engine.generate(
        arguments.prompt, max_new_tokens=arguments.tokens, temperature=arguments.temperature, seed=arguments.seed
    )
    print(arguments.prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    try:
        main()
    except (UserError, CorruptFileError) as mistake:
        print(f"complete.py: {mistake}", file=sys.stderr)
        sys.exit(2)
