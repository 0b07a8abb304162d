"""The suite itself: what phase 6 of a run executes needs only the runtime dependencies."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent


@pytest.mark.fast
@pytest.mark.parametrize("file", sorted(TESTS.rglob("*.py")), ids=lambda file: file.name)
def test_no_test_imports_another_test(file):
    """conftest.py leaves out a file that imports hypothesis or transformers; it must not come in through another."""
    imported = re.findall(r"^(?:from|import) tests\.\S*test_\w+", file.read_text(encoding="utf-8"), re.MULTILINE)
    assert imported == []


@pytest.mark.fast
def test_decoders_are_built_in_a_folder_of_the_suite():
    """Not in the person's own cache, where the next run of `nanogpt generate` would find what tests have measured."""
    assert Path(os.environ["NANOGPT_CACHE"]).name.startswith("nanogpt-cache-")


@pytest.mark.slow
def test_a_test_that_hangs_fails_with_its_stack_and_the_others_go_on(tmp_path):
    file = tmp_path / "test_hanging.py"
    file.write_text("import time\ndef test_hangs(): time.sleep(600)\ndef test_works(): pass\n")
    command = [sys.executable, "-m", "tests", "--no-bootstrap", "-p", "no:cacheprovider", "--timeout=1", file]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, timeout=300)
    assert "1 failed, 1 passed" in done.stdout and "Timeout (>1.0s)" in done.stdout


@pytest.mark.slow
def test_tests_of_a_group_run_in_one_process(tmp_path):
    """They share what takes a minute to make, or a server. With pytest 9.2, pytest-xdist 3.8 spread them silently."""
    file = tmp_path / "test_group.py"
    file.write_text(
        "import os, pathlib, pytest\n"
        "@pytest.mark.xdist_group('one')\n"
        "@pytest.mark.parametrize('number', range(6))\n"
        "def test_one(number):\n"
        "    pathlib.Path(__file__).with_name(f'{number}.txt').write_text(str(os.getpid()))\n"
    )
    command = [sys.executable, "-m", "tests", "--no-bootstrap", "-p", "no:cacheprovider", file]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, timeout=300)
    assert "6 passed" in done.stdout, done.stdout
    assert len({made.read_text() for made in tmp_path.glob("*.txt")}) == 1
