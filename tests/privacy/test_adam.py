"""Adam without the noise's share in its second moment."""

import math

import pytest
import torch
from torch import nn

from fedrad_client.privacy.adam import BiasCorrectedAdam


def steps(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, gradients: list[torch.Tensor]) -> torch.Tensor:
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


def start() -> nn.Parameter:
    return nn.Parameter(torch.linspace(-1, 1, 9, dtype=torch.float64))


def test_without_noise_it_is_adam_with_decoupled_decay() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(9, generator=generator, dtype=torch.float64) for _ in range(20)]
    ours, theirs = start(), start()

    found = steps(BiasCorrectedAdam([ours], lr=0.01, noise_variance=0.0, weight_decay=0.1), ours, gradients)
    wanted = steps(torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1), theirs, gradients)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


def test_a_step_is_the_papers() -> None:
    parameter = start()
    before, gradient = parameter.detach().clone(), torch.full((9,), 0.5, dtype=torch.float64)
    optimizer = BiasCorrectedAdam([parameter], lr=0.1, noise_variance=0.09)

    moved = before - steps(optimizer, parameter, [gradient])
    torch.testing.assert_close(moved, torch.full((9,), 0.1 * 0.5 / math.sqrt(0.25 - 0.09), dtype=torch.float64))


@pytest.mark.parametrize("size", [0.01, 0.1, 1.0])
def test_the_step_for_a_small_and_a_large_gradient_is_adams_although_the_noise_is_larger(size: float) -> None:
    """The positive control: plain Adam's step for a gradient in noise is that gradient over the noise, as SGD's would be."""
    generator, spread, n = torch.Generator().manual_seed(0), 0.2, 200_000
    gradients = [size + spread * torch.randn(n, generator=generator, dtype=torch.float64) for _ in range(1)]
    moved = {}
    for name in ("ours", "plain"):
        parameter = nn.Parameter(torch.zeros(n, dtype=torch.float64))
        optimizer: torch.optim.Optimizer = torch.optim.Adam([parameter], lr=1.0)
        if name == "ours":
            optimizer = BiasCorrectedAdam([parameter], lr=1.0, noise_variance=spread**2)
        parameter.grad = gradients[0]
        optimizer.step()
        state = optimizer.state[parameter]
        moved[name] = float(state["square" if name == "ours" else "exp_avg_sq"].mean()) / (1 - 0.999)

    assert moved["plain"] == pytest.approx(size**2 + spread**2, rel=0.02)  # inflated by the noise's variance, and by that alone
    assert moved["ours"] - spread**2 == pytest.approx(size**2, abs=0.02 * (size**2 + spread**2))


def test_a_moment_that_the_noise_drowned_gives_a_bounded_step() -> None:
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    steps(BiasCorrectedAdam([parameter], lr=1.0, noise_variance=1.0), parameter, [torch.tensor([0.0, 1e-3, 0.1], dtype=torch.float64)])

    assert parameter.isfinite().all()
    assert float(parameter.detach().abs().max()) == pytest.approx(0.1 / math.sqrt(0.05))
