"""Weights without torch: the same numbers, the same refusals."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from nanogpt.config import Config, ModelConfig, save_config
from nanogpt.export import huggingface
from nanogpt.faults import CorruptFileError, UserError
from nanogpt.model.gpt import GPT
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.weights import checkpoint
from nanogpt.weights.source import sizes_of
from nanogpt.weights.sources import source_at
from tests.nanogpt.model_case import randomised, small

LETTERS = CharTokenizer("abcdefgh \n")
CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Written:
    model: GPT
    folder: Path


@pytest.fixture(scope="module", params=["gpt2", "modern"])
def written(request, tmp_path_factory) -> Written:
    """A model as an export and, in trained/, as a training left it."""
    folder = tmp_path_factory.mktemp(request.param)
    model = randomised(small(request.param, vocab_size=LETTERS.vocab_size))
    huggingface.export(model, LETTERS, folder)
    save_config(Config(model=model.config.model_dump()), folder / "trained" / "config.yaml")
    LETTERS.save(folder / "trained")
    checkpoint.save(folder / "trained" / "best", model, step=1, facts={})
    return Written(model, folder)


@pytest.mark.parametrize("place", ["trained", "trained/best"])
def test_a_training_gives_its_parameters(written, place):
    arrays = source_at(written.folder / place).arrays()
    assert arrays.keys() == dict(written.model.named_parameters()).keys()
    for name, parameter in written.model.named_parameters():
        assert arrays[name].dtype == np.float32 and np.array_equal(arrays[name], parameter.detach().numpy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_numbers_of_any_type_are_read_alike(written, dtype, tmp_path):
    whole = source_at(written.folder).arrays()
    tensors = load_file(written.folder / "model.safetensors")
    (tmp_path / "config.json").write_text((written.folder / "config.json").read_text())
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    for name, array in source_at(tmp_path).arrays().items():
        assert np.array_equal(array, torch.from_numpy(whole[name]).to(dtype).float().numpy())


def test_a_weight_that_the_shape_does_not_have_is_named(written, tmp_path):
    config = written.model.config
    save_config(Config(model=config.model_dump()), tmp_path / "config.yaml")
    tensors = checkpoint.named_tensors(written.model) | {"blocks.2.attention_norm.weight": torch.ones(32)}
    checkpoint.save_weights(tmp_path / "best", tensors, step=1, facts={})
    with pytest.raises(UserError, match=r"blocks\.2\.attention_norm\.weight does not fit the configuration"):
        source_at(tmp_path).arrays()


def test_a_byte_that_changed_is_noticed(written, tmp_path):
    save_config(Config(model=written.model.config.model_dump()), tmp_path / "config.yaml")
    checkpoint.save(tmp_path / "best", written.model, step=1, facts={})
    file = tmp_path / "best" / checkpoint.WEIGHTS
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CorruptFileError, match="is not what its manifest says"):
        source_at(tmp_path).arrays()


@settings(max_examples=30, deadline=None)
@given(
    options=st.fixed_dictionaries({
        "preset": st.sampled_from(["gpt2", "modern"]), "norm": st.sampled_from(["layernorm", "rmsnorm"]),
        "position": st.sampled_from(["learned", "rope"]), "qk_norm": st.booleans(), "bias": st.booleans(),
        "tie_weights": st.booleans(), "activation": st.sampled_from(["gelu", "relu2", "swiglu"]),
        "n_kv_head": st.sampled_from([1, 2, None]), "head_dim": st.sampled_from([4, None]),
    })
)  # fmt: skip
def test_sizes_are_those_of_the_model(options):
    config = ModelConfig(n_layer=1, n_head=4, n_embd=32, block_size=8, vocab_size=11, **options)
    found = {name: tuple(parameter.shape) for name, parameter in GPT(config, seed=None).named_parameters()}
    assert dict(sizes_of(config)) == found


@pytest.mark.slow
@pytest.mark.parametrize("place", ["", "trained"])
def test_torch_is_not_imported(written, place):
    program = (
        "import sys; from nanogpt.weights.sources import source_at, tokenizer_of; "
        "source = source_at(sys.argv[1]); source.arrays(), tokenizer_of(source), source.digest(); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, written.folder / place], cwd=CHECKOUT, check=True, timeout=60)
