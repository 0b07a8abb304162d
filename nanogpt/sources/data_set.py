"""Which files of a data set belong to a configuration and to its splits: as its card says, or by their names.

The rules are those of the `datasets` library, for parquet files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nanogpt.faults import UserError, nearest
from nanogpt.sources.hub_address import HubAddress
from nanogpt.sources.places import Listing

SHOWN = 8  # configurations
# The names that people give to splits, each a word of its own in a path.
_SPLITS = {"train": ("train", "training"), "val": ("validation", "valid", "val", "dev"), "test": ("test", "testing")}
_SPLIT_OF = {name: split for split, names in _SPLITS.items() for name in names}
Splits = dict[str, list[str]]  # paths by train, val and test


def is_parquet(path: str) -> bool:
    return path.endswith((".parquet", ".parq"))


def files_of(address: HubAddress, listing: Listing) -> Splits:
    """The parquet files that a configuration has, in the order of their paths; empty when the data set has none.

    Raises UserError when the configuration does not exist, or none is the default and there are several.
    """
    paths = sorted(path for path in listing.sizes if is_parquet(path))
    if not paths:
        return {}
    configurations = _stated(listing.card) or _by_folder(paths, address.config)
    name = _chosen(address, configurations)
    return {split: files for split, files in _matching(paths, configurations[name]).items() if files}


def converted_files_of(address: HubAddress, listing: Listing) -> Splits:
    """The same in the hub's own conversion: CONFIGURATION/SPLIT/0000.parquet."""
    paths = sorted(path for path in listing.sizes if is_parquet(path) and path.count("/") >= 2)
    configurations: dict[str, Mapping[str, list[str]]] = {
        name: {split: [f"{name}/{split}/*", f"{name}/partial-{split}/*"] for split in _names_of_splits(paths, name)}
        for name in sorted({path.partition("/")[0] for path in paths})
    }
    if not configurations:
        return {}
    name = _chosen(address, configurations)
    return {split: files for split, files in _matching(paths, configurations[name]).items() if files}


def _names_of_splits(paths: Iterable[str], configuration: str) -> list[str]:
    folders = {path.split("/")[1] for path in paths if path.startswith(f"{configuration}/")}
    return sorted(folder.removeprefix("partial-") for folder in folders)


def _chosen(address: HubAddress, configurations: Mapping[str, object]) -> str:
    names = list(configurations)
    if address.config is not None:
        if address.config in configurations:
            return address.config
        raise UserError(
            f"data.source: {address.repository} has no configuration {address.config}, but {_some(names)}"
            f"{nearest(address.config, names)}"
        )
    if len(names) == 1:
        return names[0]
    if "default" in configurations:
        return "default"
    raise UserError(
        f"data.source: {address.repository} has several configurations, {_some(names)}; name one, such as "
        f"hf:{address.repository}:{names[0]}"
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def _stated(card: Mapping[str, Any]) -> dict[str, Mapping[str, list[str]]]:
    """{configuration: {split as it is called there: patterns}}, the default under its own name, as the card says."""
    found: dict[str, Mapping[str, list[str]]] = {}
    stated = card.get("configs")
    for entry in stated if isinstance(stated, list) else []:
        if isinstance(entry, dict) and (patterns := _patterns(entry)):
            name = str(entry.get("config_name", "default"))
            found[name] = patterns
            if entry.get("default") is True and "default" not in found:
                found["default"] = patterns
    return found


def _patterns(entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """data_files may be a pattern, several, a mapping of splits to them, or a list of {split, path}."""
    files, folder = entry.get("data_files"), entry.get("data_dir")
    if files is None:
        return {"": [f"{folder.rstrip('/')}/**"]} if isinstance(folder, str) else {}
    if isinstance(files, dict):
        return {str(split): _as_list(paths) for split, paths in files.items()}
    if isinstance(files, list) and all(isinstance(part, dict) for part in files):
        found: dict[str, list[str]] = {}
        for part in files:
            found.setdefault(str(part.get("split", "train")), []).extend(_as_list(part.get("path")))
        return found
    return {"train": _as_list(files)}


def _as_list(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _by_folder(paths: Sequence[str], wanted: str | None) -> dict[str, Mapping[str, list[str]]]:
    """Without a card: folders that hold parquet files are configurations for who names one; the whole is the default.
    `a-b` is the folder a/b where there is no folder of that name."""
    folders = {path.rpartition("/")[0] for path in paths} - {""}
    parents = {"/".join(folder.split("/")[:depth]) for folder in folders for depth in range(1, folder.count("/") + 2)}
    found: dict[str, Mapping[str, list[str]]] = {"default": {"": ["**"]}}
    for folder in sorted(parents):
        found[folder] = {"": [f"{folder}/**"]}
    if wanted is not None and wanted not in found and wanted.replace("-", "/") in parents:
        found[wanted] = found[wanted.replace("-", "/")]
    return found


def _matching(paths: Sequence[str], patterns: Mapping[str, Sequence[str]]) -> Splits:
    """Files by our names of splits; under "", where nobody says, each by its own name, and train where that says
    nothing."""
    splits: Splits = {"train": [], "val": [], "test": []}
    for stated, globs in patterns.items():
        matches = re.compile("|".join(_as_regular_expression(glob) for glob in globs)).fullmatch
        for path in filter(matches, paths):
            split = _SPLIT_OF.get(stated) if stated else _split_in(path)
            if split is not None:
                splits[split].append(path)
    if not splits["train"] and not any(splits.values()) and len(patterns) == 1:  # one split of a name of its own
        [globs] = patterns.values()
        matches = re.compile("|".join(_as_regular_expression(glob) for glob in globs)).fullmatch
        splits["train"] = list(filter(matches, paths))
    return splits


def _split_in(path: str) -> str:
    words = re.split(r"[^a-z]+", path.lower())
    return next((_SPLIT_OF[word] for word in reversed(words) if word in _SPLIT_OF), "train")


def _as_regular_expression(glob: str) -> str:
    from fsspec.utils import glob_translate

    return f"(?:{glob_translate(glob.removeprefix('./'))})"
