"""Tasks and augmentations: each image for itself."""

import math

import numpy as np
import pytest
import torch

from fedrad_common.augmentation import AUGMENTATIONS, DRAWS, augment
from fedrad_common.errors import ConfigError
from fedrad_common.tasks import echo, task


def test_the_loss_is_the_mean_over_the_labels_that_an_image_has() -> None:
    outputs = torch.tensor([[0.0, 2.0], [1.0, -1.0], [3.0, 3.0]], requires_grad=True)
    targets = torch.tensor([[1.0, 0.0], [math.nan, 1.0], [math.nan, math.nan]])

    losses = task("classification").loss(outputs, targets)

    softplus = [math.log1p(math.exp(x)) for x in (0.0, 2.0, 1.0)]
    assert losses.tolist() == pytest.approx([(softplus[0] + softplus[1]) / 2, softplus[2], 0.0], abs=1e-6)
    (gradient,) = torch.autograd.grad(losses.sum(), outputs)
    assert torch.isfinite(gradient).all()
    assert gradient[2].tolist() == [0.0, 0.0]
    assert gradient[1, 0] == 0


def test_scores_are_probabilities() -> None:
    assert task("classification").score(torch.tensor([[0.0], [50.0]])).flatten().tolist() == pytest.approx([0.5, 1.0])
    assert task("classification").n_outputs(("a", "b")) == 2


def test_the_echo_is_known_beforehand() -> None:
    np.testing.assert_array_equal(echo.update(np.zeros(3, dtype=np.float32), 2), np.full(3, 2 / 1024, dtype=np.float32))


def test_an_unknown_task_or_augmentation_is_refused() -> None:
    with pytest.raises(ConfigError, match="'regression' is not known"):
        task("regression")
    with pytest.raises(ConfigError, match="'cutmix' is not known"):
        augment("cutmix", torch.rand(1, 1, 8, 8), torch.zeros(1, DRAWS))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_views_keep_shape_and_range_and_come_from_the_draws_alone(name: str) -> None:
    images = torch.rand(6, 1, 16, 16)
    draws = 2 * torch.rand(6, DRAWS) - 1
    first, again = (augment(name, images, draws) for _ in range(2))

    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first, again)
    assert name == "none" or not torch.equal(first, images)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_no_view_depends_on_another_image(name: str) -> None:
    images = torch.rand(4, 1, 16, 16)
    changed = images.clone()
    changed[1] = 0

    draws = 2 * torch.rand(4, DRAWS) - 1
    first, second = (augment(name, each, draws) for each in (images, changed))
    assert torch.equal(first[[0, 2, 3]], second[[0, 2, 3]])
