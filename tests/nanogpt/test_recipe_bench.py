"""The harness of docs/recipe.md trains as the product does, and each of its changes changes the training."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench.recipe import STUDIES, Study, Training, Variant, read_studies, table
from bench.variants import MODEL, OPTIMIZER, ORTHOGONALIZE, express
from flows.context.paths import CHECKOUT
from nanogpt.config import load_config
from nanogpt.training.trainer import train
from nanogpt.training.update.muon import QUINTICS
from tests.nanogpt.training_case import make_data

STEPS = 4
SMALL = {"model.n_layer": 2, "model.n_embd": 32, "model.ffn_dim": 48, "model.block_size": 16,
         "training.batch_size": 4, "training.warmup_iters": 1}  # fmt: skip
OF_A_STEP = {"averages", "batches", "decay_power", "express", "lengths", "momentum_warm_up", "muon"}
OLD = "newton-schulz-5"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("recipe"))


def weights_after(data: Path, patches: dict) -> dict[str, torch.Tensor]:
    training = Training("micro", Variant("v", STEPS, SMALL, patches), 1, data)
    for step in range(STEPS):
        training.step(step)
    return training.weights()


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_it_trains_as_the_product_does(data, tmp_path):
    changes = {**SMALL, "training.max_iters": STEPS, "training.seed": 1, "training.sample_interval": 0,
               "device.type": "cpu", "device.threads": 1}  # fmt: skip
    train(load_config(CHECKOUT / "configs/micro.yaml").with_changes(changes), data, tmp_path)
    product = load_file(tmp_path / "final/model.safetensors")
    assert same(product, weights_after(data, {}))


@pytest.mark.parametrize(
    "patch",
    [
        {"soft_cap": 1}, {"lambdas": 0.5}, {"scale_matrices": 2}, {"sharpen_attention": 2}, {"muon_for_head": 1},
        {"vector_rate": 0.1}, {"momentum_warm_up": [0.5, 3]}, {"lengths": [[0.5, 8]]}, {"batches": [[0.5, 2]]},
        {"decay_power": 2}, {"express": [2, 0.02]}, {"blocks_of_the_model": 1}, {"muon": OLD},
    ],
    ids=str,
)  # fmt: skip
def test_each_patch_changes_the_training(data, patch):
    assert not same(weights_after(data, {}), weights_after(data, patch))


@pytest.mark.parametrize(
    "patch",
    [{"split_heads": "qk"}, {"split_heads": "qkv"}, {"newton_schulz": 3}, {"polar_express": 4}, {"norm_muon": 0.9}],
    ids=str,
)
def test_each_patch_of_the_earlier_update_changes_the_training(data, patch):
    assert not same(weights_after(data, {"muon": OLD}), weights_after(data, {"muon": OLD, **patch}))


def test_the_quintics_of_the_product_are_the_best_for_their_range():
    assert express(3, 0.003) == QUINTICS


def test_the_products_own_numbers_as_a_patch_change_nothing(data):
    patches = {"express": [3, 0.003], "lengths": [[1.0, 16]], "momentum_warm_up": [0.9, 1], "averages": [0.9]}
    assert same(weights_after(data, {}), weights_after(data, patches))
    assert same(weights_after(data, {"muon": OLD}), weights_after(data, {"muon": OLD, "newton_schulz": 5}))


def test_every_study_names_patches_that_exist():
    known = MODEL.keys() | OPTIMIZER.keys() | ORTHOGONALIZE.keys() | OF_A_STEP
    for study in read_studies(STUDIES):
        keys = [key for key, _, _ in study.trials()]
        assert len(keys) == len(set(keys)), f"{study.name}: two variants with one name"
        for variant in study.variants:
            assert variant.patches.keys() <= known
            load_config(CHECKOUT / f"configs/{study.config}.yaml").with_changes(variant.settings)


def test_a_table_compares_means_with_the_first_variant():
    study = Study("s", "S", "micro", [1, 2], [Variant("plain", 10), Variant("other", 10), Variant("not run", 10)])
    losses = {"plain": (2.0, 2.2), "other": (1.9, 1.9)}
    results = {
        variant.key("s", seed): {"loss": losses[variant.name][seed - 1], "tokens": 1, "flops": 2e12, "parameters": 3}
        for variant in study.variants[:2]
        for seed in study.seeds
    }
    lines = table(study, results)
    assert "| plain | 10 | 1 | 2.00 | 2.1000 | +0.0000 | 2.0000 to 2.2000 | 2 |" in lines
    assert "| other | 10 | 1 | 2.00 | 1.9000 | -0.2000 | 1.9000 to 1.9000 | 2 |" in lines
    assert len(lines) == 4
