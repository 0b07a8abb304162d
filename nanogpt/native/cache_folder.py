"""Where what was built and measured on this machine is kept between processes: in the user's cache folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import platformdirs

from nanogpt.native.unavailable import Unavailable

VARIABLE = "NANOGPT_CACHE"  # another folder


def cache_folder() -> Path:
    """The folder, made if need be. Raises Unavailable where it cannot be made, or others may write to it: code is
    loaded from it."""
    folder = Path(os.environ.get(VARIABLE) or platformdirs.user_cache_path("nanogpt-autopilot"))
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise Unavailable(f"the cache folder {folder} cannot be used ({error.strerror})") from error
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        raise Unavailable(f"others may write to the cache folder {folder}; set {VARIABLE} to a folder of your own")
    return folder
