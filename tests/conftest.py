"""What several tests share."""

import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """A folder with tinyshakespeare.txt and tiktoken/ (a data.mirror); tests that need it skip without it."""
    folder = Path(os.environ.get("NANOGPT_TEST_DATA", CHECKOUT.parent / "shared" / "data"))
    if not (folder / "tinyshakespeare.txt").is_file():
        pytest.skip(f"no sample data in {folder} (set NANOGPT_TEST_DATA)")
    return folder
