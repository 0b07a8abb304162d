"""The suite itself: what phase 6 of a run executes needs only the runtime dependencies."""

import os
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
pytestmark = pytest.mark.fast


@pytest.mark.parametrize("file", sorted(TESTS.rglob("*.py")), ids=lambda file: file.name)
def test_no_test_imports_another_test(file):
    """conftest.py leaves out a file that imports hypothesis or transformers; it must not come in through another."""
    imported = re.findall(r"^(?:from|import) tests\.\S*test_\w+", file.read_text(encoding="utf-8"), re.MULTILINE)
    assert imported == []


def test_decoders_are_built_in_a_folder_of_the_suite():
    """Not in the person's own cache, where the next run of `nanogpt generate` would find what tests have measured."""
    assert Path(os.environ["NANOGPT_CACHE"]).name.startswith("nanogpt-cache-")
