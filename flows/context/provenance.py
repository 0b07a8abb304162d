"""What made a result: the commit that the checkout stands on, and the versions of the packages that decide results."""

from __future__ import annotations

import functools
import platform
from importlib.metadata import PackageNotFoundError, distributions, version

from flows.context.paths import CHECKOUT

PACKAGES = ("nanogpt-autopilot", "torch", "prefect", "tiktoken", "numpy")


@functools.cache
def code_commit() -> str | None:
    """The commit of the checkout; None outside a repository or without git."""
    try:
        import git  # 0.1 s, and not there without a git program
    except ImportError:
        return None
    try:
        return git.Repo(CHECKOUT).head.commit.hexsha
    except (git.GitError, ValueError, OSError):
        return None


def versions() -> dict[str, str]:
    """Of Python, the packages that decide results, and this project where it is installed as one."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@functools.cache
def installed_packages() -> dict[str, str]:
    """Version of each package that this Python can import, by name, when it was first asked."""
    read = [package.metadata for package in distributions()]  # a file each: 0.1 s for 174, three times that by property
    return {metadata["Name"]: metadata["Version"] for metadata in read if metadata["Name"]}
