"""The `nanogpt` command: train, generate, eval. torch is imported only by what needs it, so that --help is quick."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from pathlib import Path

from nanogpt.faults import CorruptFileError, UserError

USER_ERROR = 2


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit code. A person's mistake is one line on stderr and code 2."""
    arguments = make_parser().parse_args(argv)
    try:
        return arguments.command(arguments)
    except (UserError, CorruptFileError) as error:
        print(f"nanogpt: {error}", file=sys.stderr)
        return USER_ERROR
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; Python flushes once more at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"nanogpt: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


def train(arguments: argparse.Namespace) -> int:
    """Train in this process until finished, stopped or failed; the trainer's exit code."""
    from nanogpt.training.child import run_child

    return run_child(
        arguments.config,
        arguments.data,
        arguments.folder,
        overrides=arguments.set,
        max_seconds=arguments.max_seconds,
        micro_batch=arguments.micro_batch,
        parent=arguments.parent,
    )


def generate(arguments: argparse.Namespace) -> int:
    """Print the prompt and, piece by piece, what follows it."""
    from nanogpt.inference.engine import Engine

    engine = Engine.from_folder(arguments.folder, _device(arguments.device))
    pieces = engine.generate(
        arguments.prompt,
        max_new_tokens=arguments.tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
    )
    print(arguments.prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    """Print loss, perplexity and bits per byte over a whole split."""
    from nanogpt.data import shards
    from nanogpt.evaluation.perplexity import evaluate_split
    from nanogpt.inference.engine import Engine

    manifest = shards.verify(arguments.data)
    engine = Engine.from_folder(arguments.folder, _device(arguments.device))
    if manifest["tokenizer"]["digest"] != engine.tokenizer.digest:
        raise UserError(f"{arguments.data}: is tokenised otherwise than what {arguments.folder} was trained on")
    block_size = engine.model.config.block_size
    window = arguments.window or block_size
    if window > block_size:
        raise UserError(f"--window {window}: the model sees at most {block_size} tokens")
    found = evaluate_split(engine.model, arguments.data, arguments.split, window, engine.device)
    print(f"{arguments.split}: {found.tokens:,} tokens, windows of {window}")
    print(f"loss           {found.loss:.4f} nats per token")
    print(f"perplexity     {found.perplexity:.3f}")
    print(f"bits per byte  {found.bits_per_byte:.4f}")
    return 0


def _device(asked: str) -> str:
    """The device to compute on; on stderr, when it is not the one that was asked for."""
    from nanogpt import device

    chosen = device.choose(asked)
    if chosen.warning:
        print(f"nanogpt: {chosen.warning}", file=sys.stderr)
    return chosen.device


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nanogpt", description="Train, use and measure a small GPT.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_train(commands)
    _add_generate(commands)
    _add_eval(commands)
    return parser


def _add_train(commands) -> None:
    parser = commands.add_parser(
        "train", help="train a model on tokenised data; a folder with checkpoints goes on where it stopped"
    )
    parser.set_defaults(command=train)
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file, such as configs/tiny_model.yaml")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of tokenised data")
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="the model's folder")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. training.learning_rate=3e-4; repeatable"
    )
    parser.add_argument("--max-seconds", type=_positive(float), metavar="S", help="training time, over all restarts")
    parser.add_argument(
        "--micro-batch", type=_positive(int), metavar="N", help="sequences at once; the step's tokens stay the same"
    )
    parser.add_argument("--parent", type=int, metavar="PID", help="who starts this process: end when it does")


def _add_generate(commands) -> None:
    parser = commands.add_parser("generate", help="write text behind a prompt")
    parser.set_defaults(command=generate)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="an export or a model's training folder")
    parser.add_argument("--prompt", default="\n", help="text to go on from (default: a new line)")
    parser.add_argument("--tokens", type=_positive(int), default=300, help="how many to write (default: %(default)s)")
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="0: always the likeliest token (default: %(default)s)"
    )
    parser.add_argument("--top-k", type=int, help="draw from the K likeliest tokens")
    parser.add_argument("--top-p", type=float, help="draw from the likeliest tokens that reach this probability")
    parser.add_argument("--seed", type=int, help="the same seed writes the same text")
    _add_device(parser)


def _add_eval(commands) -> None:
    parser = commands.add_parser("eval", help="loss, perplexity and bits per byte over a whole split")
    parser.set_defaults(command=evaluate)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="an export or a model's training folder")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of tokenised data")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="default: %(default)s")
    parser.add_argument("--window", type=_positive(int), metavar="N", help="tokens of context (default: block_size)")
    _add_device(parser)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=("auto", "cpu", "mps", "cuda"), default="auto", help="default: the best there is"
    )


def _positive(kind: type):
    def parse(text: str):
        with contextlib.suppress(ValueError):
            value = kind(text)
            if 0 < value < math.inf:
                return value
        raise argparse.ArgumentTypeError(f"found {text!r}, should be a {'whole ' * (kind is int)}number above 0")

    return parse


if __name__ == "__main__":
    sys.exit(main())
