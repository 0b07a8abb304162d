"""The models of configs/: each is as large as its first line says, and the ladder is in order of size."""

import re
from pathlib import Path

import pytest
import torch

from nanogpt.config import load_config, read_yaml
from nanogpt.measure import memory
from nanogpt.model.gpt import GPT

CONFIGS = Path(__file__).parents[2] / "configs"
LADDER = read_yaml(CONFIGS / "runs/default.yaml")["ladder"]
MILLIONS = {"mini_model": 2.7, "tiny_model": 5, "compact_model": 15, "small_model": 50, "medium_model": 125}
VOCABULARIES = {"with 66 characters": 66, "with a BPE of 1,024": 1024}


def parameters(path: Path, vocab_size: int) -> int:
    """Of the model that is built: with one and with two of its layers, which are all alike."""
    model = load_config(path, [f"model.vocab_size={vocab_size}"]).model

    def built(layers: int) -> int:
        with torch.device("meta"):  # shapes without memory
            return GPT(model.model_copy(update={"n_layer": layers})).num_parameters()

    return built(1) + (model.n_layer - 1) * (built(2) - built(1))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_has_the_parameters_that_its_first_line_names(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    said = re.match(r"# ([\d,.]+) M parameters (with 66 characters|with a BPE of 1,024): ", first)
    assert said, first
    millions, vocabulary = said.groups()
    decimals = len(millions.partition(".")[2])
    assert f"{parameters(path, VOCABULARIES[vocabulary]) / 1e6:,.{decimals}f}" == millions


def test_the_sizes_are_those_that_the_ladder_promises():
    vocabularies = {"micro": 66, "mini_model": 66, "tiny_model": 66}
    sizes = {name: parameters(CONFIGS / f"{name}.yaml", vocabularies.get(name, 1024)) for name in LADDER}
    assert list(sizes) == sorted(sizes, key=sizes.__getitem__)
    assert 100_000 <= sizes["micro"] <= 810_000  # nanoGPT's recipe for CPUs has 0.80 M: the race is between equals
    for name, millions in MILLIONS.items():
        assert abs(sizes[name] / 1e6 / millions - 1) < 0.04


def test_the_largest_takes_of_24_gigabytes_what_its_file_says_and_leaves_the_rest():
    text = (CONFIGS / "large_model.yaml").read_text(encoding="utf-8")
    said = re.search(r"Predicted peak .*: ([\d.]+) GB in float32, ([\d.]+) GB in bfloat16", text)
    config = load_config(CONFIGS / "large_model.yaml", ["model.vocab_size=1024"])
    predicted = [memory.predict(config, precision=type).total / 1e9 for type in ("float32", "bfloat16")]
    assert [f"{size:.1f}" for size in predicted] == list(said.groups())
    assert 11 < max(predicted) < 24 * 0.65


def test_all_heads_are_as_wide_as_the_kernels_like():
    """Whole registers of sixteen numbers."""
    for name in LADDER:
        assert load_config(CONFIGS / f"{name}.yaml").model.head_width in (32, 48, 64, 128)
