"""The suite itself: what phase 6 of a run executes needs only the runtime dependencies."""

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
