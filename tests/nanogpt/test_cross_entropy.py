"""The loss whose gradient takes the logits' place: torch's loss, the gradient of finite differences."""

import pytest
import torch
import torch.nn.functional as F

from nanogpt.model import cross_entropy
from nanogpt.model.cross_entropy import summed_cross_entropy

pytestmark = pytest.mark.fast

LOGITS = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = torch.tensor([0, 4, -1, 2, 2, -1, 3])


@pytest.mark.parametrize("rows_at_once", [1, 2, 7])
def test_the_written_gradient_is_that_of_finite_differences(rows_at_once, monkeypatch):
    monkeypatch.setattr(cross_entropy, "ELEMENTS_AT_ONCE", rows_at_once * LOGITS.size(1))
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: 0.5 * summed_cross_entropy(x * 1.0, TARGETS), logits)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_loss_and_gradient_are_those_of_torch(dtype):
    logits = LOGITS.to(dtype, copy=True).requires_grad_()
    expected = F.cross_entropy(logits.to(torch.promote_types(dtype, torch.float32)), TARGETS, ignore_index=-1,
                               reduction="sum")  # fmt: skip
    loss = summed_cross_entropy(logits * 1.0, TARGETS)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss / 3, logits), torch.autograd.grad(expected / 3, logits))


def test_without_a_gradient_the_logits_stay():
    logits = LOGITS.clone()
    summed_cross_entropy(logits, TARGETS)
    assert torch.equal(logits, LOGITS)
