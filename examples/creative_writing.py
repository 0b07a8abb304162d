"""The same opening written at several temperatures: `python examples/creative_writing.py MODEL_FOLDER [options]`.

Low temperatures repeat what is likeliest, high ones invent; the useful range lies between.
"""

import argparse
import sys
from pathlib import Path

from nanogpt.faults import CorruptFileError, NonFiniteError, UserError
from nanogpt.inference import prompts
from nanogpt.inference.engine import Engine
from nanogpt.printable import show

MOODS = {0.5: "cautious", 0.8: "balanced", 1.1: "adventurous"}
OPENING = "Once upon a time"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write one opening three times, each bolder than the last.")
    parser.add_argument("folder", type=Path, help="an export or a model's training folder")
    parser.add_argument("--opening", "--prompt", help=f"the text so far (default: {OPENING!r})")
    parser.add_argument("--tokens", type=int, default=200, help="of each version (default: %(default)s)")
    parser.add_argument("--top-p", type=float, default=0.95, help="leave out the unlikely rest (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="the same seed, the same texts (default: others each time)")
    parser.add_argument("--allow-unknown", action="store_true", help="accept characters that the model does not know")
    parser.add_argument("--raw", action="store_true", help="let control characters in the text reach the terminal")
    arguments = parser.parse_args()

    remark(f"loading {arguments.folder} ...")
    engine = Engine.from_folder(arguments.folder)
    opening = prompts.known(OPENING, engine.tokenizer) if arguments.opening is None else arguments.opening
    opening = prompts.checked(opening, engine.tokenizer, remark, arguments.allow_unknown)
    for temperature, mood in MOODS.items():
        print(f"--- {mood} (temperature {temperature}) ---")
        pieces = engine.generate(
            opening,
            max_new_tokens=arguments.tokens,
            temperature=temperature,
            top_p=arguments.top_p,
            seed=arguments.seed,
        )
        show(opening, arguments.raw)
        for piece in pieces:
            show(piece, arguments.raw)
        show("\n\n")


def remark(words: str) -> None:
    print(f"creative_writing.py: {words}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except (UserError, CorruptFileError, NonFiniteError) as mistake:
        remark(str(mistake))
        sys.exit(2)
