"""AdamW, and Muon for the hidden matrices with AdamW for the rest."""

import inspect
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nanogpt.config import TrainingConfig
from nanogpt.faults import UserError
from nanogpt.model.gpt import GPT, weight_of
from nanogpt.training.update.gradients import gradient_of
from nanogpt.training.update.muon import POLAR_EXPRESS, Muon
from nanogpt.training.update.newton_schulz import NEWTON_SCHULZ, NewtonSchulzMuon

MUON_COMPANION_EPS = 1e-10  # AdamW's 1e-8 damps the small gradients of a head that starts at zero


class AdamW(torch.optim.AdamW):
    """torch's, without the wrappers that keep its compiler away: to do so they import it, 0.7 s of each start."""

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


class Optimizer:
    """All updates of one training step, with one dial: the factor on each peak learning rate.

    `muon`: how hidden matrices are updated, POLAR_EXPRESS or, as in earlier versions, NEWTON_SCHULZ, with products in
    `muon_dtype`. A state that is loaded brings its own.
    """

    def __init__(
        self,
        model: GPT,
        config: TrainingConfig,
        muon_dtype: torch.dtype = torch.float32,
        muon: str = POLAR_EXPRESS,
    ):
        self.model, self.config, self.muon_dtype = model, config, muon_dtype
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.muon = self._muon(muon) if _takes_muon(config) else None
        groups = _adamw_groups(model, config)
        self.peaks = [group["lr"] for group in groups]
        eps = MUON_COMPANION_EPS if self.muon else 1e-8
        self.adamw = AdamW(groups, betas=(config.beta1, config.beta2), eps=eps, fused=True)

    def _muon(self, method: str) -> Muon | NewtonSchulzMuon:
        training = self.config
        settings = training.muon_learning_rate, training.muon_momentum, training.weight_decay, self.muon_dtype
        if method == POLAR_EXPRESS:
            return Muon(_blocks_by_head(self.model), *settings, training.muon_interval)
        if method == NEWTON_SCHULZ:
            return NewtonSchulzMuon(self.model.row_blocks(), *settings)
        raise UserError(f"Muon by {method!r}: this version knows {POLAR_EXPRESS!r} and {NEWTON_SCHULZ!r}")

    def step(self, factor: float) -> None:
        """Update all parameters from their gradients with `factor` of each peak learning rate."""
        for group, peak in zip(self.adamw.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        self.adamw.step()
        if self.muon:
            self.muon.step(factor)

    def forget_gradients(self) -> None:
        """Drop the gradients: the next backward pass writes instead of adding."""
        for parameter in self.parameters:
            parameter.grad = None

    def gradient_norm(self) -> Tensor:
        """Euclidean norm of all gradients together, a scalar on their device."""
        gradients = [gradient_of(parameter) for parameter in self.parameters]
        return torch.nn.utils.get_total_norm(gradients)  # foreach=True is refused on MPS

    def scale_gradients(self, factor: float) -> None:
        """Multiply all gradients by `factor`."""
        torch._foreach_mul_([gradient_of(p) for p in self.parameters], factor)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers only, loadable with weights_only."""
        return {"adamw": self.adamw.state_dict(), "muon": self.muon.state_dict() if self.muon else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what state_dict() gave, and the method of Muon; one without a name is of an earlier version.

        Raises UserError for a method that only a later version knows.
        """
        self.adamw.load_state_dict(state["adamw"])
        if self.muon:
            method = state["muon"].get("method", NEWTON_SCHULZ)
            if method != self.muon.method:
                self.muon = self._muon(method)
            self.muon.load_state_dict(state["muon"])


def _takes_muon(config: TrainingConfig) -> bool:
    """Adapters are AdamW's: only the product of the two small matrices is a map whose directions count equally."""
    return config.optimizer == "muon" and not config.lora_rank


def _blocks_by_head(model: GPT) -> dict[nn.Parameter, tuple[int, ...]]:
    """model.row_blocks() with each head of queries and keys a matrix of its own: as maps into scores, heads are apart.

    A shared matrix lets a head with large gradients take the update of the others. Values stay one matrix, because what
    the heads read is added up (docs/recipe.md: by head they gain nothing).
    """
    blocks = model.row_blocks()
    for block in model.layers:
        attention = block.attention
        queries, keys, values = attention.row_blocks
        heads = (queries + keys) // attention.head_dim
        blocks[weight_of(attention.qkv)] = (attention.head_dim,) * heads + (values,)
    return blocks


def _adamw_groups(model: GPT, config: TrainingConfig) -> list[dict[str, Any]]:
    """Parameters by peak learning rate and weight decay.

    Alone, AdamW decays what has two dimensions (nanoGPT). Next to Muon it has the head, the vectors and the tables;
    a tied table keeps the head's rate, because 0.05 is too much for a head.
    """
    matrices = set(model.matrices()) if _takes_muon(config) else set()
    tables = set(model.embedding_parameters()) if _takes_muon(config) else set()
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for parameter in model.parameters():
        if parameter in matrices or not parameter.requires_grad:
            continue
        is_tied = parameter is model.head.weight
        rate = config.embedding_learning_rate if parameter in tables and not is_tied else config.learning_rate
        decay = config.weight_decay if parameter.dim() >= 2 and parameter not in tables else 0.0
        groups[rate, decay].append(parameter)
    return [dict(params=list(g), lr=rate, weight_decay=decay) for (rate, decay), g in groups.items()]
