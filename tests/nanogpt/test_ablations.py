"""The ablations' variants do what they say, are trained as the trainer trains, and are compared fairly."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.config import Config
from nanogpt.corpus import tokenising
from nanogpt.faults import UserError
from nanogpt.model.gpt import GPT
from nanogpt.plots.ablations import ablations_plot
from nanogpt.results.ablations import Ablation, KernelTimes
from nanogpt.study import surgery
from nanogpt.study.ablation import train_variant
from nanogpt.study.ablation_table import make_table
from nanogpt.study.variants import BY_NAME, CONTROL, VARIANTS, chosen
from nanogpt.training.trainer import train
from tests.flows.small_model import english

WINDOW, STEPS = 16, 20
SMALL = Config(
    name="small",
    model={"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": WINDOW, "vocab_size": 11},
    training={"batch_size": 4, "max_iters": STEPS, "warmup_iters": 2, "eval_interval": 1000, "sample_interval": 0},
    device={"type": "cpu", "mixed_precision": False, "threads": 1},
)
GPT2 = SMALL.with_changes({"model": {"preset": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 16,
                                     "block_size": WINDOW, "vocab_size": 11}})  # fmt: skip
TOKENS = torch.randint(11, (2, WINDOW), generator=torch.Generator().manual_seed(5))


def model_of(name: str, control: Config = SMALL) -> GPT:
    """The variant with weights of which none is zero, so that every part of it counts."""
    variant = BY_NAME[name]
    model = surgery.build(variant, variant.config(control.with_changes({"model.zero_init": False})))
    return model.eval()


@torch.no_grad()
def logits(model: GPT, tokens: torch.Tensor = TOKENS) -> torch.Tensor:
    return model(tokens)[0]


@pytest.mark.fast
@pytest.mark.parametrize("control", [SMALL, GPT2], ids=["modern", "gpt2"])
@pytest.mark.parametrize("name", BY_NAME)
def test_every_variant_of_both_presets_can_be_trained(name, control):
    model = model_of(name, control).train()
    _, loss = model(TOKENS, TOKENS.roll(-1, 1))
    loss.backward()
    assert math.isfinite(loss.item())
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert set(model.row_blocks()) == set(model.matrices())  # what Muon works on


@pytest.mark.fast
def test_without_a_mask_the_past_sees_the_future_until_the_mask_is_back():
    other_end = TOKENS.clone()
    other_end[:, -1] = (TOKENS[:, -1] + 1) % 11
    control, unmasked = model_of("control"), model_of("no-mask")
    assert torch.equal(logits(control)[:, :-1], logits(control, other_end)[:, :-1])
    assert not torch.allclose(logits(unmasked)[:, :-1], logits(unmasked, other_end)[:, :-1])
    with surgery.masked(unmasked):
        assert torch.allclose(logits(unmasked), logits(control), atol=1e-6)  # the same weights
    assert not torch.allclose(logits(unmasked), logits(control))


@pytest.mark.fast
def test_without_residuals_nothing_goes_around_a_layer():
    for name, comes_through in (("control", True), ("no-residual", False)):
        model = model_of(name)
        for block in model.layers:
            block.feedforward.down.weight.data.zero_()
        assert torch.equal(logits(model), logits(model, TOKENS.roll(1, 1))) is not comes_through


@pytest.mark.fast
@pytest.mark.parametrize("control", [SMALL, GPT2], ids=["modern", "gpt2"])
def test_without_positions_one_layer_does_not_know_the_order(control):
    one_layer = control.with_changes({"model.n_layer": 1})
    shuffled = torch.cat([TOKENS[:, :-1].flip(1), TOKENS[:, -1:]], dim=1)
    for name, knows in (("control", True), ("no-position", False)):
        model = model_of(name, one_layer)
        assert torch.allclose(logits(model)[:, -1], logits(model, shuffled)[:, -1], atol=1e-6) is not knows


@pytest.mark.fast
def test_norms_are_after_the_layers_or_nowhere():
    model, seen = model_of("post-norm"), []
    model.blocks[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    logits(model)
    assert torch.allclose(seen[0].square().mean(-1), torch.ones(2, WINDOW), atol=1e-3)
    assert [name for name, parameter in model_of("no-norm").named_parameters() if parameter.dim() < 2] == []


@pytest.mark.fast
def test_temperatures_sharpen_and_flatten_what_is_attended_to():
    q, k = torch.randn(2, 1, 2, WINDOW, 8, generator=torch.Generator().manual_seed(1))
    v = torch.eye(WINDOW).expand(1, 2, -1, -1)  # then the output is the attention itself
    cold, usual, hot = (model_of(name).layers[0].attention.attend(q, k, v)
                        for name in ("cold-attention", "control", "hot-attention"))  # fmt: skip

    def entropy(p: torch.Tensor) -> float:
        return float(torch.special.entr(p).sum(-1).mean())

    assert entropy(cold) < entropy(usual) < entropy(hot)


@pytest.mark.fast
def test_attention_written_out_computes_the_same_with_the_same_gradients():
    fused, plain = model_of("control").train(), model_of("manual-attention").train()
    for model in (fused, plain):
        model(TOKENS, TOKENS.roll(-1, 1))[1].backward()
    for (name, a), b in zip(fused.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-6), name


@pytest.mark.fast
def test_activations_have_as_many_parameters_and_relu_is_relu():
    control = SMALL.with_changes({"model.ffn_dim": 48})
    sizes = {name: model_of(name, control).num_parameters() for name in ("gelu", "relu", "relu2", "control")}
    assert len(set(sizes.values())) == 1, sizes
    hidden = torch.tensor([-1.0, 0.0, 2.0])
    assert model_of("relu").layers[0].feedforward.activate(hidden).tolist() == [0, 0, 2]


@pytest.mark.fast
def test_what_a_person_asks_for_is_found_or_named():
    assert [variant.name for variant in chosen([], SMALL)] == [
        v.name for v in VARIANTS if v.name not in ("swiglu", "untied")
    ]
    assert [variant.name for variant in chosen(["norm", "relu"], SMALL)] == ["post-norm", "no-norm", "relu"]
    with pytest.raises(UserError, match=r"--only no-maks: no such ablation .*no-mask"):
        chosen(["no-maks"], SMALL)
    with pytest.raises(UserError, match="--only swiglu: that is what the control, small, has already"):
        chosen(["swiglu"], SMALL)
    assert [variant.name for variant in chosen(["activation", "tying"], GPT2)] == ["relu", "relu2", "swiglu", "untied"]


# ---- trained


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from nanogpt.corpus import preparation

    folder = tmp_path_factory.mktemp("data")
    (folder / "text.txt").write_text(english()[:12_000])
    config = SMALL.data.model_copy(update={"source": str(folder / "text.txt")})
    preparation.prepare([folder / "text.txt"], folder / "text", config)
    tokenising.tokenise(folder / "text", "char", folder / "char", config)
    return folder / "char"


@pytest.fixture
def control() -> Config:
    return SMALL.with_changes({"model.vocab_size": None})


def test_the_control_is_what_the_trainer_trains(control, data, tmp_path):
    trained = train(control.with_changes({"training.seed": 7}), data, tmp_path / "model")
    found = train_variant(control, data, "control", 7, STEPS)
    assert found.val_loss == found.val_loss_as_trained == trained.final_val_loss
    assert [step for step, _ in found.curve] == list(range(1, STEPS + 1))
    assert found == replace(train_variant(control, data, "control", 7, STEPS), seconds=found.seconds,
                            tokens_per_second=found.tokens_per_second)  # fmt: skip


def test_a_model_without_mask_is_judged_as_it_writes(control, data):
    found = train_variant(control, data, "no-mask", 1, 10 * STEPS)
    assert found.val_loss_as_trained < found.val_loss - 0.1


def test_what_does_not_stay_finite_ends_there(control, data):
    wild = control.with_changes({"training.muon_learning_rate": 100.0, "training.learning_rate": 100.0})
    found = train_variant(wild, data, "no-norm", 1, STEPS)
    assert found.val_loss is None and 0 < found.diverged_at < STEPS
    assert len(found.curve) == found.diverged_at


# ---- compared

KERNELS = [KernelTimes(64, 4096, 1.0, 2.0, 1e-6), KernelTimes(256, 4096, 1.0, 3.5, 5e-7)]


def run_of(variant: str, seed: int, loss: float | None, as_trained: float | None = None) -> Ablation:
    curve = [(step, 3.0 - 0.01 * step) for step in range(10, 101, 10)]
    return Ablation(variant, seed, 100, 1000, loss, loss if as_trained is None else as_trained, loss, curve,
                    40 if loss is None else None, 1.0, 1e5, "cpu", "float32", 1)  # fmt: skip


def table_of(**losses):
    runs = [run_of(name.replace("_", "-"), seed, loss) for name, values in losses.items()
            for seed, loss in enumerate(values, 1)]  # fmt: skip
    return make_table(SMALL, runs, KERNELS, [])


@pytest.mark.fast
def test_seeds_are_compared_in_pairs_and_noise_is_no_finding():
    table = table_of(control=[2.0, 2.2, 2.4], no_position=[2.1, 2.31, 2.5], relu=[2.05, 2.15, 2.4],
                     no_residual=[2.0, None, 2.4], relu2=[1.9, 2.1, 2.31])  # fmt: skip
    rows = {row.variant: row for row in table.rows}
    assert {name: row.verdict for name, row in rows.items()} == {
        "control": "control", "no-position": "worse", "relu": "no clear difference", "no-residual": "not finite",
        "relu2": "better"}  # fmt: skip
    # 0.1, 0.11, 0.1: mean 0.10333, deviation 0.0057735, times 4.303 / sqrt(3)
    assert rows["no-position"].difference == pytest.approx(0.103333, abs=1e-6)
    assert rows["no-position"].margin == pytest.approx(0.014343, abs=1e-5)
    assert (rows["no-position"].as_expected, rows["no-residual"].as_expected) == ("yes", "yes")
    words = "\n".join(table.findings)
    assert "No positions: worse, +0.103 ± 0.014 nats a token" in words
    assert "no longer finite in 1 of 3 seeds, first after 40 steps" in words
    assert "2.0 times as long as the fused kernel with windows of 64, 3.5 times with windows of 256; outputs" in words


@pytest.mark.fast
def test_what_is_worse_with_every_seed_is_worse_however_much_seeds_differ():
    table = table_of(control=[2.0, 2.01, 2.02], no_residual=[2.4, 3.9, 2.5], relu=[2.03, 2.3, 2.07])
    assert table.rows[1].margin > table.rows[1].difference
    assert [row.verdict for row in table.rows] == ["control", "worse", "no clear difference"]


@pytest.mark.fast
def test_a_difference_that_nobody_would_act_on_is_none_however_sure_it_is():
    table = table_of(control=[2.0, 2.2, 2.4], manual_attention=[2.002, 2.2021, 2.402], relu=[2.02, 2.221, 2.42])
    assert [row.verdict for row in table.rows] == ["control", "no clear difference", "worse"]


@pytest.mark.fast
def test_one_seed_says_nothing_of_noise_and_a_cheat_is_called_one():
    runs = [run_of("control", 1, 2.0), run_of("no-mask", 1, 3.0, as_trained=0.2)]
    table = make_table(SMALL, runs, [], ["no-mask-2"])
    assert table.rows[1].verdict == "not known"
    assert "with one seed, of whose noise nothing is known" in table.findings[1]
    assert "with the answer in sight, it has 0.200" in table.findings[1]


@pytest.mark.fast
@given(st.lists(st.floats(0.5, 5), min_size=2, max_size=10))
def test_a_model_never_differs_from_itself(losses):
    table = table_of(control=losses, manual_attention=losses)
    assert (table.rows[1].verdict, table.rows[1].as_expected) == ("no clear difference", "yes")


def test_the_figure_is_the_same_for_the_same_figures(tmp_path):
    runs = [run_of(v, s, loss + 0.01 * s) for s in (1, 2, 3)
            for v, loss in [(CONTROL.name, 2.0), ("no-mask", 4.0), ("relu", 2.0), ("relu2", 1.9)]]  # fmt: skip
    runs.append(run_of("no-residual", 1, None))
    table = make_table(SMALL, runs, KERNELS, [])
    first, second = (ablations_plot(table, runs, tmp_path / f"{n}.svg").read_bytes() for n in (1, 2))
    assert first == second
