"""Arguments that several commands have, and what they share beyond that."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from nanogpt.faults import UserError
from nanogpt.machine import may_have_accelerator
from nanogpt.printable import printable

Number = TypeVar("Number", int, float)
PICTURES = (".svg", ".png")
THOUSANDS = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
BACKENDS = ("auto", "measure", "torch", "c", "onnxruntime")  # decoders.opening's, which takes numpy to load


def positive(kind: type[Number]) -> Callable[[str], Number]:
    """An argparse type: an int or float above 0."""

    def parse(text: str) -> Number:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if 0 < value < math.inf:
                return value
        raise argparse.ArgumentTypeError(f"found {text!r}, should be a {'whole ' * (kind is int)}number above 0")

    return parse


def byte_count(text: str) -> int:
    """An argparse type: bytes, as a number or with k, M, G or T (thousands)."""
    digits, unit = (text[:-1], text[-1]) if text[-1:] in THOUSANDS else (text, "")
    with contextlib.suppress(ValueError):
        value = float(digits) * THOUSANDS.get(unit, 1)
        if 1 <= value < math.inf:
            return int(value)
    raise argparse.ArgumentTypeError(f"found {text!r}, should be bytes, such as 500M or 2G")


def seed(text: str) -> int:
    """An argparse type: what torch's generators take."""
    with contextlib.suppress(ValueError):
        value = int(text)
        if 0 <= value < 2**63:
            return value
    raise argparse.ArgumentTypeError(f"found {text!r}, should be a whole number from 0 to 2^63 - 1")


def named(text: str) -> str:
    """An argparse type: a name or a path, which a shell makes empty where a variable is not set."""
    if not text:
        raise argparse.ArgumentTypeError("is empty")
    return text


def path(text: str) -> Path:
    """An argparse type: a path. The empty one would be the current folder."""
    return Path(named(text))


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=("auto", "cpu", "mps", "cuda"), default="auto", help="default: the best of this machine"
    )


def add_computing(parser: argparse.ArgumentParser) -> None:
    """What a model decodes with: device, backend and precision."""
    add_device(parser)
    backend = "what computes (auto: the fastest here that agrees with the model, measured once; measure: again)"
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help=backend)
    precision = "of the weights: int8 takes a quarter of the memory and is faster (default: %(default)s)"
    parser.add_argument("--precision", choices=("float32", "int8"), default="float32", help=precision)


def add_overrides(parser: argparse.ArgumentParser, example: str = "training.learning_rate=3e-4") -> None:
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=f"e.g. {example}; repeatable")


def chosen_device(asked: str) -> str:
    """The device to compute on; a note on stderr when it is not the one that was asked for."""
    if asked == "cpu" or (asked == "auto" and not may_have_accelerator()):
        return "cpu"
    from nanogpt import device  # torch, which takes a second to load and may not be what computes

    chosen = device.choose(asked)
    if chosen.warning:
        print_note(chosen.warning)
    return chosen.device


def print_note(words: str) -> None:
    """What a person should know, without disturbing what is written to stdout."""
    print(f"nanogpt: {printable(words)}", file=sys.stderr)  # a file may be called by a command to the terminal


def print_markdown(text: str) -> None:
    """Markdown to stdout; on a terminal its tables are as wide as that is."""
    if not sys.stdout.isatty():
        print(text, end="")
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))


def require_folder(option: str, folder: Path) -> None:
    """Raise UserError where no folder can be, or be made: before the work whose results are for it."""
    _require_folders(option, folder, (folder, *folder.parents))


def require_file(option: str, file: Path | None, endings: Sequence[str] = ()) -> None:
    """Raise UserError where no such file can be written: before the work whose results are for it."""
    if file is None:
        return
    if endings and file.suffix not in endings:
        raise UserError(f"{option} {file}: should end in {' or '.join(endings)}")
    if file.is_dir():
        raise UserError(f"{option} {file}: is a folder; choose a file in it")
    if file.exists() and not file.is_file():  # a rename would take the place of a device
        raise UserError(f"{option} {file}: is a device or a pipe; choose a file")
    _require_folders(option, file, file.parents)


def _require_folders(option: str, path: Path, folders: Sequence[Path]) -> None:
    found = next(folder for folder in folders if os.path.lexists(folder))
    if not found.is_dir():
        what = "a file" if found.exists() else "a link to nothing"
        raise UserError(f"{option} {path}: {'' if found == path else f'{found} '}is {what}; choose a folder")


def add_model(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    """CONFIG and the options that change it; nanogpt.commands.chosen_model reads them."""
    parser.add_argument(
        "config", nargs="?" if optional else None, metavar="CONFIG", help="YAML file, such as configs/tiny_model.yaml"
    )
    parser.add_argument(
        "--vocab", type=positive(int), metavar="N", help="tokens in the vocabulary (default: the tokenizer's)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "mps", "cuda"), help="default: the configuration's")
    add_overrides(parser)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """End the parser's --help with all settings. They are looked up only then: pydantic takes 0.2 s to load."""
    options_help = parser.format_help

    def format_help() -> str:
        from nanogpt.commands.settings_help import settings_help

        return f"{options_help()}\n{settings_help(shutil.get_terminal_size().columns - 2)}"

    parser.format_help = format_help  # type: ignore[method-assign]
