"""Low-rank adapters: nothing changes at first, only they learn, merged they compute the same, and PEFT opens them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from nanogpt.config import Config, TrainingConfig, save_config
from nanogpt.export import adapters, huggingface
from nanogpt.faults import UserError
from nanogpt.model.gpt import GPT
from nanogpt.model.lora import adapter_state, add_adapters, plain_weights
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.training.update.optimizer import Optimizer
from nanogpt.weights import checkpoint, folders
from tests.nanogpt.model_case import randomised, small, some_tokens

LETTERS = CharTokenizer("abcdefgh \n")
SHAPES = [dict(preset="gpt2"), dict(preset="modern", n_kv_head=2), dict(preset="modern", tie_weights=True)]
RANK, ALPHA = 3, 5.0


def adapted(options: dict, learned: bool = True) -> GPT:
    """A model with adapters; `learned`: none of them is zero."""
    model = randomised(small(**options, vocab_size=LETTERS.vocab_size))
    add_adapters(model, RANK, ALPHA)
    if learned:
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("lora_B"):
                    parameter.normal_(0, 0.3, generator=generator)
    return model


def logits(model, tokens):
    with torch.no_grad():
        return model(tokens)[0]


@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_at_first_nothing_changes(options):
    model = adapted(options, learned=False)
    plain = randomised(model.config)
    assert torch.equal(logits(model, some_tokens(plain.config)), logits(plain, some_tokens(plain.config)))


@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_only_adapters_have_gradients_and_optimizer_state(options):
    model = adapted(options)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = Optimizer(model, TrainingConfig(optimizer="muon", init_from="x", lora_rank=RANK, weight_decay=0.1))
    tokens = some_tokens(model.config)
    model(tokens, tokens)[1].backward()
    assert optimizer.gradient_norm() > 0
    optimizer.step(1.0)
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == adapter_state(model).keys()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == changed
    assert len(optimizer.state_dict()["adamw"]["state"]) == len(changed)
    assert changed == checkpoint.named_tensors(model).keys()


@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_merged_it_computes_the_same(options):
    model = adapted(options)
    plain = GPT(model.config).eval()
    checkpoint.put_weights(plain, plain_weights(model), "the sum")
    tokens = some_tokens(model.config)
    assert not torch.allclose(logits(plain, tokens), logits(randomised(model.config), tokens), atol=1e-2)
    torch.testing.assert_close(logits(plain, tokens), logits(model, tokens), atol=1e-5, rtol=1e-5)


def test_each_stacked_matrix_has_adapters_of_its_own():
    model = adapted(dict(preset="modern", n_kv_head=2), learned=False)
    qkv = model.blocks[0].attention.qkv
    assert qkv.lora_A.shape == (3 * RANK, 32)
    q, k, _ = qkv.row_blocks
    with torch.no_grad():
        qkv.lora_B[q : q + k] = 1.0  # the keys' alone
        qkv.lora_A[:RANK] = torch.inf  # the queries', which must not reach them
        change = qkv(torch.ones(1, 32))[0] - torch.nn.functional.linear(torch.ones(1, 32), qkv.weight)[0]
    expected = ALPHA / RANK * qkv.lora_A[RANK : 2 * RANK].sum()
    torch.testing.assert_close(change[q : q + k], expected.expand(k), atol=1e-5, rtol=1e-5)
    assert not change[q + k :].any()


def test_the_seed_decides_the_adapters_and_nothing_else_does():
    torch.manual_seed(1)
    first = adapter_state(adapted(SHAPES[1], learned=False))
    torch.manual_seed(2)
    again = adapter_state(adapted(SHAPES[1], learned=False))
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.fixture(params=SHAPES[:2], ids=str)
def trained(request, tmp_path):
    """A model with adapters, the training folder that it leaves, and an export of the model below them."""
    model = adapted(request.param)
    folder, base = tmp_path / "trained", tmp_path / "base"
    training = dict(init_from=str(base), lora_rank=RANK, lora_alpha=ALPHA)
    save_config(Config(model=model.config.model_dump(), training=training), folder / "config.yaml")
    LETTERS.save(folder)
    checkpoint.save_model(folder / "best", model, step=1, facts={})
    huggingface.export(randomised(model.config), LETTERS, base)
    return model, folder, base


def test_the_trained_folder_is_a_model_like_any(trained):
    model, folder, _ = trained
    opened, _ = folders.open_folder(folder)
    tokens = some_tokens(model.config)
    torch.testing.assert_close(logits(opened, tokens), logits(model, tokens), atol=1e-5, rtol=1e-5)


def test_apart_and_merged_again(trained, tmp_path):
    model, folder, base = trained
    files = adapters.save_apart(folder, tmp_path / "apart")
    assert sum(path.stat().st_size for path in files) < (folder / "best" / checkpoint.WEIGHTS).stat().st_size
    adapters.merge(base, tmp_path / "apart", tmp_path / "merged")
    opened, tokenizer = folders.open_folder(tmp_path / "merged")
    tokens = some_tokens(model.config)
    torch.testing.assert_close(logits(opened, tokens), logits(model, tokens), atol=1e-5, rtol=1e-5)
    assert tokenizer.digest == LETTERS.digest


def test_what_is_not_their_model_or_not_adapters_is_refused(trained, tmp_path):
    model, folder, base = trained
    apart = tmp_path / "apart"
    adapters.save_apart(folder, apart)
    other = randomised(small(model.config.preset, n_embd=16, vocab_size=LETTERS.vocab_size))
    huggingface.export(other, LETTERS, tmp_path / "other")
    with pytest.raises(UserError, match="is of another model than"):
        adapters.merge(tmp_path / "other", apart, tmp_path / "x")
    with pytest.raises(UserError, match="expected adapters in PEFT's layout"):
        adapters.merge(base, base, tmp_path / "x")
    settings = json.loads((apart / "adapter_config.json").read_text())
    (apart / "adapter_config.json").write_text(json.dumps(settings | {"use_dora": True}))
    with pytest.raises(UserError, match="use_dora True is not supported"):
        adapters.merge(base, apart, tmp_path / "x")
    (apart / "adapter_config.json").write_text(json.dumps(settings))
    tensors = load_file(apart / "adapter_model.safetensors")
    name = next(name for name in tensors if ".lora_A." in name)
    for changed, message in (
        ({name: torch.zeros(RANK + 7, 32)}, "of two ranks"),
        ({"base_model.model.lm_head.modules_to_save.weight": torch.zeros(1)}, "is left over"),
    ):
        save_file(tensors | changed, apart / "adapter_model.safetensors")
        with pytest.raises(UserError, match=message):
            adapters.merge(base, apart, tmp_path / "x")
    save_config(Config(model=model.config.model_dump()), tmp_path / "plain" / "config.yaml")
    checkpoint.save_model(tmp_path / "plain" / "best", randomised(model.config), step=1, facts={})
    with pytest.raises(UserError, match="was trained without adapters"):
        adapters.save_apart(tmp_path / "plain", tmp_path / "x")
    with pytest.raises(UserError, match=r"expected the folder of a training with training\.lora_rank"):
        adapters.save_apart(base, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_over_the_exported_base_they_are_w_plus_scaled_b_a(trained, tmp_path):
    """The layout by its definition, without PEFT: transformers' matrices plus alpha / rank B A give our logits."""
    transformers = pytest.importorskip("transformers")
    model, folder, base = trained
    adapters.save_apart(folder, tmp_path / "apart")
    settings = json.loads((tmp_path / "apart" / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "apart" / "adapter_model.safetensors")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        for name in [name for name in tensors if ".lora_A." in name]:
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            last = module.rsplit(".", 1)[1]
            scale = settings["alpha_pattern"].get(last, ALPHA) / settings["rank_pattern"].get(last, RANK)
            change = scale * tensors[name.replace("lora_A", "lora_B")] @ tensors[name]
            theirs.get_submodule(module).weight.add_(change.t() if settings["fan_in_fan_out"] else change)
    tokens = some_tokens(model.config)
    torch.testing.assert_close(theirs(tokens).logits, logits(model, tokens), atol=1e-4, rtol=1e-4)


def test_peft_opens_them(trained, tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    model, folder, base = trained
    adapters.save_apart(folder, tmp_path / "apart")
    theirs = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), tmp_path / "apart")
    tokens = some_tokens(model.config)
    torch.testing.assert_close(logits(model, tokens), theirs(tokens).logits.detach(), atol=1e-4, rtol=1e-4)
    theirs.save_pretrained(tmp_path / "by-peft")  # and what PEFT saves is merged here
    adapters.merge(base, tmp_path / "by-peft", tmp_path / "merged")
    merged = folders.open_folder(tmp_path / "merged")[0]
    torch.testing.assert_close(logits(merged, tokens), logits(model, tokens), atol=1e-4, rtol=1e-4)
