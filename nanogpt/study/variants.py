"""What the ablations change, one thing at a time, and what each change is to show. The modules that do it: surgery.py.

A variant is a change of settings, a change of modules, or both. All variants of a control see the same samples in the
same order, for the same number of steps, from the same seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nanogpt.config import Config
from nanogpt.faults import UserError, nearest

Changes = dict[str, Any]  # dotted keys of a configuration
Expected = Literal["worse", "same", "open"]
COLD, HOT = 0.25, 4.0  # temperatures of the attention


def nothing(_control: Config) -> Changes:
    return {}


@dataclass(frozen=True)
class Variant:
    """One change. `surgery` names a function of surgery.SURGERIES; `expected` is how the loss is to compare."""

    name: str
    experiment: str
    title: str
    shows: str
    expected: Expected
    changes: Callable[[Config], Changes] = nothing
    surgery: str = ""

    def config(self, control: Config) -> Config:
        """Raises UserError when the control cannot be changed so."""
        return control.with_changes(self.changes(control))

    def differs_from(self, control: Config) -> bool:
        """Whether this is anything but the control itself: SwiGLU is, where the control has it already."""
        return bool(self.surgery) or self.config(control) != control


CONTROL = Variant("control", "control", "control", "what the others are compared with", "same")


def _with_activation(activation: str) -> Callable[[Config], Changes]:
    def changes(control: Config) -> Changes:
        """As many parameters: SwiGLU has three matrices where the others have two."""
        if control.model.activation == activation:
            return {}
        width, was_gated, is_gated = (
            control.model.ffn_width,
            control.model.activation == "swiglu",
            activation == "swiglu",
        )
        if was_gated != is_gated:
            width = round(width * 3 / 2) if was_gated else round(width * 2 / 3)
        return {"model.activation": activation, "model.ffn_dim": width}

    return changes


def _one_head(control: Config) -> Changes:
    """As wide as all heads together."""
    model = control.model
    return {"model.n_head": 1, "model.n_kv_head": None, "model.head_dim": model.n_head * model.head_width}


VARIANTS = (
    Variant(
        "no-mask", "mask", "no causal mask",
        "a model that may look at the next token copies it: its own loss nearly vanishes, and it cannot write",
        "worse", surgery="unmask",
    ),
    Variant(
        "no-residual", "residual", "no residual connections",
        "without a path around each layer little of the token comes through, and little of the gradient back",
        "worse", lambda _: {"model.zero_init": False}, "drop_residuals",  # blocks that start at zero pass nothing
    ),
    Variant(
        "no-position", "position", "no positions",
        "without positions only the mask tells earlier from later: order is learned worse, but it is learned",
        "worse", surgery="drop_positions",
    ),
    Variant(
        "post-norm", "norm", "norm after each layer",
        "the order of 2017 puts the norm in the residual path: slower, and worse with depth",
        "worse", surgery="norm_after",
    ),
    Variant(
        "no-norm", "norm", "no norms at all",
        "without norms nothing limits the size of activations: learning is slower or breaks",
        "worse", lambda _: {"model.qk_norm": False, "model.embedding_norm": False}, "drop_norms",
    ),
    Variant(
        "gelu", "activation", "GELU",
        "with as many parameters, activations differ little in a small model", "open", _with_activation("gelu"),
    ),
    Variant(
        "relu", "activation", "ReLU",
        "the oldest of them; compared with GELU it shows what smoothness is worth", "open",
        _with_activation("gelu"), "use_relu",
    ),
    Variant(
        "relu2", "activation", "ReLU squared",
        "as cheap as ReLU, and said to be better than GELU (So et al. 2021)", "open", _with_activation("relu2"),
    ),
    Variant(
        "swiglu", "activation", "SwiGLU",
        "a gate in place of width, said to be better than all of them (Shazeer 2020)", "open",
        _with_activation("swiglu"),
    ),
    Variant(
        "cold-attention", "temperature", f"attention at temperature {COLD:g}",
        "scores that are too large: each head looks at one token, and has little gradient to learn another", "worse",
        surgery="cool_attention",
    ),
    Variant(
        "hot-attention", "temperature", f"attention at temperature {HOT:g}",
        "scores that are too small: each head sees an average of everything until its weights have grown", "worse",
        surgery="heat_attention",
    ),
    Variant(
        "tied", "tying", "embedding and head tied",
        "one matrix for embedding and head saves parameters, and has to serve both", "open",
        lambda _: {"model.tie_weights": True},
    ),
    Variant(
        "untied", "tying", "embedding and head untied",
        "two matrices cost more parameters, and each has one thing to do", "open",
        lambda _: {"model.tie_weights": False},
    ),
    Variant(
        "one-head", "heads", "one head as wide as all",
        "with as many parameters, one head can look at one place at a time where several look at several", "worse",
        _one_head,
    ),
    Variant(
        "no-warmup", "warm-up", "no warm-up",
        "the first steps at the full rate: a model without norms may diverge, others hardly notice", "open",
        lambda _: {"training.warmup_iters": 0},
    ),
    Variant(
        "manual-attention", "kernel", "attention written out",
        "the fused kernel computes the same as softmax(q k) v written out: only time and memory differ", "same",
        surgery="write_attention_out",
    ),
)  # fmt: skip
BY_NAME = {variant.name: variant for variant in (CONTROL, *VARIANTS)}
EXPERIMENTS = tuple(dict.fromkeys(variant.experiment for variant in VARIANTS))


def chosen(names: Sequence[str], control: Config) -> list[Variant]:
    """The variants that `names` (of variants or experiments) stand for, all by default; the control is not among them.

    Raises UserError for a name that is not there, for one that is the control itself, and for a control that a
    variant cannot be made of.
    """
    for name in names:
        known = [*EXPERIMENTS, *(variant.name for variant in VARIANTS)]
        if name not in known:
            raise UserError(f"--only {name}: no such ablation{nearest(name, known)}; there are {', '.join(known)}")
    asked = [variant for variant in VARIANTS if not names or {variant.name, variant.experiment} & set(names)]
    differing = [variant for variant in asked if variant.differs_from(control)]
    if not differing:
        raise UserError(f"--only {' '.join(names)}: that is what the control, {control.name}, has already")
    return differing
