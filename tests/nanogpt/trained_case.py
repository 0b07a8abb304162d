"""What a training leaves, without training: for tests of exports."""

from pathlib import Path

from nanogpt.config import Config, save_config
from nanogpt.model.gpt import GPT
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.weights import checkpoint
from tests.nanogpt.model_case import randomised, small

LETTERS = CharTokenizer("abcdefgh \n")


def model(seed: int = 0):
    return randomised(small(vocab_size=LETTERS.vocab_size), seed)


def train_into(folder: Path, seed: int = 0) -> Path:
    """What a training leaves in `folder`."""
    return lay_down(folder, model(seed), LETTERS)


def lay_down(folder: Path, trained: GPT, tokenizer: Tokenizer) -> Path:
    """The same of a model and a tokenizer."""
    save_config(Config(model=trained.config.model_dump()), folder / "config.yaml")
    tokenizer.save(folder)
    (folder / "metrics.jsonl").touch()
    checkpoint.save_model(folder / "best", trained, step=1, facts={})
    return folder
