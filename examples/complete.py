"""Complete a text: `python examples/complete.py MODEL_FOLDER --prompt "Beginning of a text" [--tokens 200] [--seed 1]`.

MODEL_FOLDER is an export of a run (exports/...) or a model's training folder (checkpoints/...).
"""

import argparse
import sys
from pathlib import Path

from nanogpt.faults import CorruptFileError, NonFiniteError, UserError
from nanogpt.inference import prompts
from nanogpt.inference.engine import Engine
from nanogpt.printable import show

BEGINNING = "First Citizen:\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write what could follow a text.")
    parser.add_argument("folder", type=Path, help="an export or a model's training folder")
    parser.add_argument("beginning", nargs="?", help=f"the text so far (default: {BEGINNING!r})")
    parser.add_argument("--prompt", dest="beginning_too", metavar="TEXT", help="the same as an option")
    parser.add_argument("--tokens", type=int, default=200, help="how many to write (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.7, help="0: the likeliest (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="the same seed, the same text (default: another one each time)")
    parser.add_argument("--allow-unknown", action="store_true", help="accept characters that the model does not know")
    parser.add_argument("--raw", action="store_true", help="let control characters in the text reach the terminal")
    arguments = parser.parse_args()

    remark(f"loading {arguments.folder} ...")
    engine = Engine.from_folder(arguments.folder)
    beginning = arguments.beginning_too if arguments.beginning_too is not None else arguments.beginning
    if beginning is None:
        beginning = prompts.known(BEGINNING, engine.tokenizer)
    prompt = prompts.checked(beginning, engine.tokenizer, remark, arguments.allow_unknown)
    pieces = engine.generate(
        prompt, max_new_tokens=arguments.tokens, temperature=arguments.temperature, seed=arguments.seed
    )
    show(prompt, arguments.raw)
    for piece in pieces:
        show(piece, arguments.raw)
    show("\n")


def remark(words: str) -> None:
    print(f"complete.py: {words}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except (UserError, CorruptFileError, NonFiniteError) as mistake:
        remark(str(mistake))
        sys.exit(2)
