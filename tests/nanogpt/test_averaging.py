"""The moving average of the weights: its formula, its place in the model, its way through a checkpoint."""

import pytest
import torch
from torch import nn

from nanogpt.training.update.averaging import WeightAverage


def walked(decay: float, steps: int) -> tuple[nn.Parameter, WeightAverage, list[torch.Tensor]]:
    """A parameter after a random walk, its average, and every place it has been at."""
    generator = torch.Generator().manual_seed(1)
    parameter = nn.Parameter(torch.randn(3, 2, generator=generator))
    average, places = WeightAverage([parameter], decay), []
    for _ in range(steps):
        with torch.no_grad():
            parameter.add_(torch.randn(3, 2, generator=generator))
        average.update()
        places.append(parameter.detach().clone())
    return parameter, average, places


@pytest.mark.parametrize("decay, steps", [(0.5, 1), (0.9, 7), (0.999, 30)])
def test_it_is_the_weighted_mean_of_all_places(decay, steps):
    _, average, places = walked(decay, steps)
    shares = torch.tensor([decay ** (steps - 1 - index) for index in range(steps)], dtype=torch.float64)
    expected = sum(share * place.double() for share, place in zip(shares / shares.sum(), places, strict=True))
    torch.testing.assert_close(average.means[0].double(), expected, rtol=1e-5, atol=1e-5)


def test_the_model_has_it_for_a_while_and_its_own_weights_again_whatever_happens():
    parameter, average, places = walked(0.9, 5)
    view, mean = parameter.detach()[:1], average.means[0].clone()
    with pytest.raises(KeyboardInterrupt), average.in_the_model():
        assert torch.equal(parameter, mean)
        raise KeyboardInterrupt
    assert torch.equal(parameter, places[-1]) and torch.equal(average.means[0], mean)
    assert view.data_ptr() == parameter.data_ptr()  # an optimizer that holds views still updates this parameter


def test_before_the_first_update_it_is_the_first_weights():
    parameter, average, _ = walked(0.9, 0)
    assert torch.equal(average.means[0], parameter)


def test_it_goes_on_from_a_checkpoint():
    parameter, average, _ = walked(0.9, 5)
    other = WeightAverage([parameter], 0.9)
    other.load_state_dict({"updates": average.updates, "means": [mean.clone() for mean in average.means]})
    average.update()
    other.update()
    assert torch.equal(average.means[0], other.means[0])
