"""The same opening written at several temperatures: `python examples/creative_writing.py MODEL_FOLDER [options]`.

Low temperatures repeat what is likeliest, high ones invent; the useful range lies between.
"""

import argparse
import sys
from pathlib import Path

from nanogpt.faults import CorruptFileError, UserError
from nanogpt.inference.engine import Engine

MOODS = {0.5: "cautious", 0.8: "balanced", 1.1: "adventurous"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write one opening three times, each bolder than the last.")
    parser.add_argument("folder", type=Path, help="an export or a model's training folder")
    parser.add_argument("--opening", default="Once upon a time", help="(default: %(default)r)")
    parser.add_argument("--tokens", type=int, default=200, help="of each version (default: %(default)s)")
    parser.add_argument("--top-p", type=float, default=0.95, help="leave out the unlikely rest (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    arguments = parser.parse_args()

    engine = Engine.from_folder(arguments.folder)
    for temperature, mood in MOODS.items():
        print(f"--- {mood} (temperature {temperature}) ---")
        print(arguments.opening, end="", flush=True)
        pieces = engine.generate(
            arguments.opening,
            max_new_tokens=arguments.tokens,
            temperature=temperature,
            top_p=arguments.top_p,
            seed=arguments.seed,
        )
        for piece in pieces:
            print(piece, end="", flush=True)
        print("\n")


if __name__ == "__main__":
    try:
        main()
    except (UserError, CorruptFileError) as mistake:
        print(f"creative_writing.py: {mistake}", file=sys.stderr)
        sys.exit(2)
