"""What is read in a model's folder."""

import json

import pytest

from flows.supervision.model_files import ModelFiles
from nanogpt import durable

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("kept, micro_batch", [
    (None, 12), ({"micro_batch": 3, "batch_size": 12}, 3), ({"micro_batch": 3, "batch_size": 24}, 12), ("{half", 12),
])  # fmt: skip
def test_a_run_that_starts_again_knows_the_micro_batch_that_fitted(tmp_path, kept, micro_batch):
    """Unless the setting has changed since: then the person's word is newer than the remedy."""
    for step in (100, 200):
        manifest = tmp_path / f"checkpoints/step-{step:08d}/manifest.json"
        if kept is not None:
            settled = {"micro_batch": 12, "batch_size": 12} if step == 100 else kept
            durable.write_text(manifest, kept if kept == "{half" else json.dumps({"facts": settled}))
    assert ModelFiles(tmp_path).settled_micro_batch(12) == micro_batch
