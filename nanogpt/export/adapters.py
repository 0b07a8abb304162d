"""Low-rank adapters in a folder of their own, in PEFT's layout: adapter_config.json and adapter_model.safetensors.

PEFT applies them to the exported base; merge() adds them to it for good. Where the published shape keeps matrices
stacked that have adapters of their own here (GPT-2's c_attn), the n pairs of rank r are one pair of rank n r, whose B
is block-diagonal; rank_pattern and alpha_pattern say so, and the product stays the same.
"""

import math
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from nanogpt import durable
from nanogpt.config import Config, load_config
from nanogpt.export import card, folder_card, front_matter, huggingface
from nanogpt.export.card_facts import Base
from nanogpt.export.target import require_target
from nanogpt.faults import UserError
from nanogpt.model.gpt import GPT, weight_of
from nanogpt.model.lora import ADAPTER_NAMES
from nanogpt.weights import checkpoint, published_settings, published_shapes
from nanogpt.weights.folders import open_folder
from nanogpt.weights.published_names import published_names
from nanogpt.weights.safe_loading import load_arrays
from nanogpt.weights.trained_folder import BEST, CONFIG, TrainedFolder

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # PEFT's, before transformers' own names
# What PEFT can do beyond W + scale B A, with the values that turn it off.
PLAIN = {"use_dora": False, "bias": "none", "modules_to_save": None, "layers_pattern": None, "peft_type": "LORA"}
Pair = tuple[Tensor, Tensor]  # A (rank, in) and B (out, rank)


def save_apart(model_folder: Path, folder: Path) -> list[Path]:
    """Write the adapters of best/ in a training folder to `folder`, with their card; returns the files.

    Raises UserError when the model was not trained with adapters or fits neither published shape.
    """
    if not (model_folder / CONFIG).is_file() or not (model_folder / BEST).is_dir():
        raise UserError(f"{model_folder}: expected the folder of a training with training.lora_rank")
    shape = TrainedFolder(model_folder).config  # its sizes are those of the weights
    config = load_config(model_folder / CONFIG).with_changes({"model": shape.model_dump()})
    saved = checkpoint.load(model_folder / BEST)
    if "adapters" not in saved.state:
        raise UserError(f"{model_folder}: was trained without adapters (training.lora_rank is 0)")
    published_settings.settings_of(config.model)  # raises when transformers has no such model
    require_target(folder, {SETTINGS, WEIGHTS, front_matter.CARD}, _is_ours, [model_folder])
    try:
        pairs = _published_pairs(config, saved.state["adapters"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{model_folder}: its adapters are not of the rank or shape in its {CONFIG}") from error
    described = folder_card.of_adapters(model_folder)
    settings = _settings(config, pairs, described.base)
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in pairs.items():
        tensors |= {f"{PREFIX}{name}.lora_A.weight": a.contiguous(), f"{PREFIX}{name}.lora_B.weight": b.contiguous()}
    durable.write_json(folder / SETTINGS, settings)
    if not front_matter.is_own_words(folder):
        durable.write_text(folder / front_matter.CARD, card.text(described))
    durable.write_bytes(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    return [folder / SETTINGS, folder / front_matter.CARD, folder / WEIGHTS]


def merge(base: Path, adapters: Path, folder: Path) -> list[Path]:
    """Export the model in `base` with `adapters`, ours or PEFT's, added to its matrices, and a card; returns the files.

    Raises UserError for adapters of another model, and for those that are more than low-rank products.
    """
    model, tokenizer = open_folder(base)
    tensors = published_shapes.tensors_of(model)
    settings, pairs = _read(adapters)
    for name, (a, b) in pairs.items():
        weight = tensors.get(f"{name}.weight")
        if weight is not None and not published_settings.is_qwen3(model.config):
            weight = weight.t()  # (out, in), and a view: what is added to it is added to the tensor
        expected = (b.size(0), a.size(1))
        if weight is None or weight.shape != expected:
            found = "no such matrix" if weight is None else f"{tuple(weight.shape)} instead of {expected}"
            raise UserError(f"{adapters}: is of another model than {base}: {name} has {found}")
        weight += _scale(settings, name, a.size(0)) * (b @ a)
        if not weight.isfinite().all():
            raise UserError(f"{adapters}: {name} holds NaN or infinity; the adapters are damaged")
    rank = min((a.size(0) for a, _ in pairs.values()), default=0)  # of what is not stacked
    described = folder_card.of_merged(base, adapters, rank, float(settings["lora_alpha"]))
    text = None if front_matter.is_own_words(folder) else card.text(described)
    return huggingface.export_tensors(model.config, tensors, tokenizer, folder, text, [base, adapters])


def _published_pairs(config: Config, adapters: dict[str, Tensor]) -> dict[str, Pair]:
    """A and B of each matrix as transformers names and stacks it."""
    model, rank = GPT(config.model, seed=None), config.training.lora_rank
    row_blocks = model.row_blocks()
    pairs: dict[str, Pair] = {}
    for layer, block in enumerate(model.layers):
        for part, module in block.named_modules():
            if not isinstance(module, nn.Linear):
                continue
            a, b = (adapters[f"blocks.{layer}.{part}.{name}"] for name in ADAPTER_NAMES)
            names = published_names(config.model, layer, part)
            bs = b.split(row_blocks[weight_of(module)])
            if len(names) == len(bs):
                pairs |= dict(zip(names, zip(a.split(rank), bs, strict=True), strict=True))
            else:
                pairs[names[0]] = a, torch.block_diag(*bs)
    return pairs


def _settings(config: Config, pairs: dict[str, Pair], base: Base | None) -> dict[str, Any]:
    """adapter_config.json for these pairs. It may be shared: the base is named, not where it lies."""
    rank, alpha = config.training.lora_rank, config.training.lora_alpha
    ranks = {name.rsplit(".", 1)[-1]: a.size(0) for name, (a, _) in pairs.items()}
    stacked = {name: found for name, found in ranks.items() if found != rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name if base else None,
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(ranks),
        "rank_pattern": stacked,
        "alpha_pattern": {name: alpha * found / rank for name, found in stacked.items()},
        "fan_in_fan_out": not published_settings.is_qwen3(config.model),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Pair]]:
    """The settings, and A and B by the name of the matrix that they change. Raises UserError."""
    if not (folder / SETTINGS).is_file() or not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder}: expected adapters in PEFT's layout: {SETTINGS} and {WEIGHTS}")
    try:
        settings = durable.read_json(folder / SETTINGS)
        unknown = [key for key, plain in PLAIN.items() if settings.get(key, plain) != plain]
        patterns = settings.get("alpha_pattern") or {}
        for pattern, alpha in [("", settings["lora_alpha"]), *patterns.items()]:
            re.compile(pattern), float(alpha)
    except (ValueError, KeyError, TypeError, AttributeError, re.error) as error:
        raise UserError(f"{folder / SETTINGS}: is not the configuration of adapters ({error})") from error
    if unknown:
        raise UserError(f"{folder / SETTINGS}: {unknown[0]} {settings[unknown[0]]} is not supported")
    tensors = {name: torch.from_numpy(array) for name, array in load_arrays(folder / WEIGHTS).items()}
    names = {name.removeprefix(PREFIX).removesuffix(".lora_A.weight") for name in tensors if ".lora_A." in name}
    expected = {f"{PREFIX}{name}.lora_{side}.weight" for name in names for side in "AB"}
    if expected != tensors.keys():
        odd = sorted(expected ^ tensors.keys())[0]
        raise UserError(f"{folder / WEIGHTS}: {odd} is {'left over' if odd in tensors else 'missing'}")
    sides = {side: f"{PREFIX}{{}}.lora_{side}.weight" for side in "AB"}
    pairs = {name: (tensors[sides["A"].format(name)], tensors[sides["B"].format(name)]) for name in sorted(names)}
    for name, (a, b) in pairs.items():
        if a.dim() != 2 or b.dim() != 2 or a.size(0) != b.size(1):
            raise UserError(f"{folder / WEIGHTS}: {name} has A {tuple(a.shape)} and B {tuple(b.shape)}, of two ranks")
    return settings, pairs


def _is_ours(folder: Path) -> bool:
    """Whether the adapters in `folder` were written here: PEFT writes more, such as the base's revision."""
    try:
        found = durable.read_json(folder / SETTINGS)
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "peft_type" in found and "revision" not in found


def _scale(settings: dict[str, Any], name: str, rank: int) -> float:
    """The factor of B A for the matrix `name`; a pattern is matched as PEFT does, against the end of the name."""
    patterns = settings.get("alpha_pattern") or {}
    alpha = next((a for key, a in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), settings["lora_alpha"])
    return float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)
