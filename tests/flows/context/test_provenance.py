"""What made a result, on machines that lack something."""

import sys
from importlib import metadata

import pytest

from flows.context import provenance

pytestmark = pytest.mark.fast


def test_a_project_that_is_not_installed_is_left_out(monkeypatch):
    def version(name: str) -> str:
        if name == "nanogpt-autopilot":
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(provenance, "version", version)
    found = provenance.versions()
    assert found["torch"] == "1.0" and "python" in found and "nanogpt-autopilot" not in found


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setitem(sys.modules, "git", None)  # import git raises ImportError
    assert provenance.code_commit.__wrapped__() is None


def test_outside_a_repository_there_is_no_commit(monkeypatch, tmp_path):
    pytest.importorskip("git")
    monkeypatch.setattr(provenance, "CHECKOUT", tmp_path)
    assert provenance.code_commit.__wrapped__() is None
