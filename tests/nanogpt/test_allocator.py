"""The allocator: what is freed is used again, or goes back to the system at once, or when it is asked to."""

import subprocess
import sys

import pytest

from nanogpt import allocator

pytestmark = pytest.mark.fast

FAULTS = """
import ctypes, resource, sys
from nanogpt import allocator
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: where huge pages are always taken, 48 MiB are 24 of them
if sys.argv[1] != "default":
    allocator.keep_freed_memory()
if sys.argv[1] == "let go":
    allocator.let_go_of_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(48 << 20)  # 12,288 pages; where all is kept, the next one is the same block
before = faults()
bytearray(48 << 20)
print(faults() - before)
"""


@pytest.mark.skipif(not allocator._of_c_library("mallopt"), reason="glibc alone has it")
def test_a_freed_block_is_used_again_without_the_system_clearing_its_pages():
    default, kept, let_go = (
        int(subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True).stdout)
        for mode in ("default", "keep", "let go")
    )
    assert default > 10_000 and kept < 100 and let_go > 10_000


HELD = """
import psutil
from nanogpt import allocator
allocator.keep_freed_memory()
large, behind = bytearray(48 << 20), bytearray(1 << 20)  # a megabyte that lives on
del large
before = psutil.Process().memory_info().rss
allocator.let_go_of_freed_memory()
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(not allocator._of_c_library("mallopt"), reason="glibc alone has it")
def test_what_was_kept_until_then_goes_back_too():
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 40 << 20


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_nothing_happens(monkeypatch, platform):
    monkeypatch.setattr(allocator.sys, "platform", platform)
    monkeypatch.setattr(allocator.ctypes, "CDLL", None)
    allocator.keep_freed_memory()
    allocator.let_go_of_freed_memory()
    allocator.return_freed_memory()
