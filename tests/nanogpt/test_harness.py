"""EleutherAI's lm-evaluation-harness opens an export and finds what `nanogpt eval` finds."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from nanogpt.evaluation.token_scores import in_order, score
from nanogpt.export import huggingface
from nanogpt.tokenizers.characters import CharTokenizer
from tests.nanogpt.model_case import randomised, small

TASK = """\
task: held_out
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/held_out.jsonl}}, cache_dir: {folder}/cache}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: bits_per_byte
"""
DOCUMENT = Path(__file__).parents[2] / "docs/evaluation.md"


def test_the_harness_and_nanogpt_eval_agree(tmp_path):
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    text = "a bad cab, a bead, a cafe\n" * 3
    text = text[: 4 * 16]  # whole windows: the harness lets its last one begin earlier
    tokenizer = CharTokenizer(text)
    model = randomised(small(vocab_size=tokenizer.vocab_size))
    huggingface.export(model, tokenizer, tmp_path / "export")
    (tmp_path / "held_out.jsonl").write_text(json.dumps({"text": text}) + "\n")
    (tmp_path / "held_out.yaml").write_text(TASK.format(folder=tmp_path))
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(tmp_path / "export"), "prefix_token_id": 0},
        tasks=["held_out"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        device="cpu",
        batch_size=1,
        bootstrap_iters=0,
    )
    tokens = np.concatenate([[0], tokenizer.encode(text)])  # the harness puts a token before the text
    nats = in_order(score(model, tokens, 16, 16))[0]
    expected = nats.sum() / math.log(2) / len(text)
    assert found["results"]["held_out"]["bits_per_byte,none"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.fast
def test_the_task_in_the_document_is_the_one_that_is_tried_here():
    task = TASK.format(folder="HERE").replace(", cache_dir: HERE/cache", "").replace("HERE/", "")
    assert task in DOCUMENT.read_text(encoding="utf-8")
