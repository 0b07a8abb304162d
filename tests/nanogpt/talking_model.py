"""A model that answers "go go go ..." without end. Not a test itself."""

from pathlib import Path

import torch

from nanogpt.config import ModelConfig
from nanogpt.export import huggingface
from nanogpt.model.gpt import GPT
from nanogpt.tokenizers.characters import CharTokenizer

ALPHABET = "\n .,:?!'" + "abcdefghijklmnopqrstuvwxyz" + "EIJLMORTUVW"
FOLLOWS = {"g": "o", "o": " "}  # any other character: "g"


def write(folder: Path, follows: dict[str, str] = FOLLOWS) -> Path:
    """An export whose next character depends on the last one alone: blocks that add nothing, an embedding of ones in
    the diagonal, and a head with a large weight from each character to the one that follows it."""
    tokenizer = CharTokenizer(ALPHABET)
    size = tokenizer.vocab_size
    model = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=64, block_size=64, vocab_size=size)).eval()
    with torch.no_grad():
        model.token_embedding.weight.zero_()
        model.head.weight.zero_()
        for index in range(size):
            follower = follows.get(tokenizer.token(index), "g")
            model.token_embedding.weight[index, index] = 1
            model.head.weight[tokenizer.encode(follower)[0], index] = 9
    huggingface.export(model, tokenizer, folder)
    return folder
