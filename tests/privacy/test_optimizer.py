"""What is released of a step: clipped rows, summed, noised once, on a grid, over a constant."""

import pytest
import torch
from torch import Tensor, nn

from fedrad_client.privacy.gradients.parts import Parts, squared_norms
from fedrad_client.privacy.noise import AesNoise
from fedrad_client.privacy.optimizer import GRID, PatientOptimizer

SIZES = ((40, 30), (25,))
BATCH = 5.0
LEAST_CLIP_NORM = 1e-6  # of a protocol
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


class Weights(nn.Module):
    def __init__(self, sizes: tuple[tuple[int, ...], ...] = SIZES) -> None:
        super().__init__()
        self.all = nn.ParameterList([nn.Parameter(torch.zeros(size)) for size in sizes])


def optimizer_of(module: Weights, *, sigma: float = 0.0, clip: float = 1.0, seed: int = 0) -> PatientOptimizer:
    plain = torch.optim.SGD(module.parameters(), lr=1.0)
    return PatientOptimizer(plain, noise=AesNoise.seeded(seed), noise_multiplier=sigma, clip_norm=clip, expected_batch=BATCH)


def rows_of(module: Weights, n: int, *, scale: float = 1.0) -> dict[Tensor, Tensor]:
    return {parameter: torch.randn(n, *parameter.shape) * scale for parameter in module.parameters()}


def released(optimizer: PatientOptimizer) -> list[Tensor]:
    optimizer.pre_step()
    grads = [parameter.grad.clone() for parameter in optimizer.params]  # the next step uses their memory again
    optimizer.zero_grad(set_to_none=True)
    return grads


def grid_steps(optimizer: PatientOptimizer) -> list[Tensor]:
    """The release before the division, in steps of the grid; exact while float32 holds it."""
    optimizer.pre_step()
    steps = [parameter.grad.double() * (BATCH / (optimizer.max_grad_norm * GRID)) for parameter in optimizer.params]
    optimizer.zero_grad(set_to_none=True)
    return [torch.round(each) for each in steps]


def norm(parts: list[Tensor]) -> float:
    return float(torch.sqrt(sum(part.double().square().sum() for part in parts)))


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e-3, 1.0, 1e6, 1e15, 1e25, 1e36])
@pytest.mark.parametrize("clip", [0.1, 7.0])
def test_no_patient_adds_more_than_the_bound(scale: float, clip: float) -> None:
    module = Weights()
    optimizer = optimizer_of(module, clip=clip)
    optimizer.accumulate(Parts.of_rows(rows_of(module, 1, scale=scale)))

    share = norm(released(optimizer)) * BATCH
    assert share <= clip
    assert scale < 1 or share > 0.999 * clip  # and no gradient is so large that its patient is skipped: a scaler's way of doing it


@pytest.mark.parametrize("bits", [8, 11, 24])
def test_a_row_that_a_shorter_float_rounds_down_is_clipped_all_the_same(bits: int) -> None:
    """bf16, TF32 and float32 keep 8, 11 and 24 bits: each weight loses nearly half of the last one, and the norm with it."""
    module = Weights(((3000,),))
    optimizer = optimizer_of(module)
    optimizer.accumulate(Parts.of_rows({optimizer.params[0]: torch.full((1, 3000), 1 + 0.49 * 2.0 ** (1 - bits))}))

    assert norm(released(optimizer)) * BATCH <= 1


def test_what_a_norm_in_float32_cannot_see_is_far_below_the_least_clip_norm() -> None:
    """A float32 square of 2e-23 is 0, so a row of such numbers counts as nothing; ten million of them are still nothing."""
    assert float(squared_norms(torch.full((1, 1000), 2e-23))) == 0
    assert 1e-12 * LEAST_CLIP_NORM > 2e-23 * 1e7**0.5


def test_a_norm_is_that_of_float64_to_a_hundred_thousandth() -> None:
    for size in (1, 4095, 4096, 4097, 100_000):
        for scale in (1e-15, 1e-3, 1.0, 1e14, 1e25, 3e37):
            rows = torch.randn(3, size) * scale
            wanted = rows.double().square().sum(1)
            assert float((squared_norms(rows) / wanted - 1).abs().max()) < 1e-5, (size, scale)


def test_the_bound_leaves_room_for_rounding_in_a_large_network() -> None:
    optimizer = optimizer_of(Weights(((1000, 1000),)))

    assert optimizer.bound + 1000 * GRID < 1


def test_a_gradient_within_the_bound_is_added_as_it_is() -> None:
    module = Weights()
    optimizer = optimizer_of(module, clip=1e3)
    rows = rows_of(module, 4)
    optimizer.accumulate(Parts.of_rows(rows))

    for parameter, each in zip(module.parameters(), released(optimizer), strict=True):
        torch.testing.assert_close(each, rows[parameter].sum(0) / BATCH, rtol=1e-6, atol=1e3 * GRID)


def test_the_sum_is_clipped_patient_by_patient_and_not_as_a_whole() -> None:
    module = Weights()
    optimizer = optimizer_of(module)
    row = {parameter: torch.ones(1, *parameter.shape) for parameter in module.parameters()}
    for _ in range(3):
        optimizer.accumulate(Parts.of_rows(row))

    assert norm(released(optimizer)) * BATCH == pytest.approx(3, rel=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_patient_that_is_not_finite_adds_nothing(bad: float) -> None:
    module = Weights()
    rows = rows_of(module, 3)
    spoilt = {parameter: each.clone() for parameter, each in rows.items()}
    next(iter(spoilt.values()))[1, 0, 0] = bad
    without = {parameter: each[[0, 2]] for parameter, each in rows.items()}

    first, second = optimizer_of(module), optimizer_of(module)
    first.accumulate(Parts.of_rows(spoilt))
    one = released(first)
    second.accumulate(Parts.of_rows(without))

    for each, expected in zip(one, released(second), strict=True):
        assert torch.equal(each, expected)


def test_every_parameter_gets_its_own_noise_of_the_right_size() -> None:
    module = Weights(((300, 300), (90_000,)))
    optimizer = optimizer_of(module, sigma=2.0, clip=0.5)
    first, second = (each.flatten().double() * BATCH for each in released(optimizer))

    for each in (first, second):
        assert float(each.std()) == pytest.approx(1.0, rel=5 / (2 * 90_000) ** 0.5)
        assert abs(float(each.mean())) < 5 / 300
    assert abs(float((first * second).mean())) < 5 / 300


def test_an_empty_batch_is_released_as_noise_of_the_same_size_over_the_same_constant() -> None:
    module = Weights()
    empty, full = optimizer_of(module, sigma=1e4), optimizer_of(module, sigma=1e4)
    noise = released(empty)
    full.accumulate(Parts.of_rows(rows_of(module, 50)))

    assert norm(noise) > 0
    for each, expected in zip(released(full), noise, strict=True):
        torch.testing.assert_close(each, expected, rtol=0, atol=50 / BATCH)


def test_noise_is_added_once_however_many_micro_batches_there_are() -> None:
    module = Weights()
    rows = rows_of(module, 6)
    whole, parts = optimizer_of(module, sigma=1.0), optimizer_of(module, sigma=1.0)
    whole.accumulate(Parts.of_rows(rows))
    one = released(whole)
    for start in range(6):
        parts.accumulate(Parts.of_rows({parameter: each[start : start + 1] for parameter, each in rows.items()}))

    for each, expected in zip(released(parts), one, strict=True):
        torch.testing.assert_close(each, expected, rtol=0, atol=1e-6 * GRID / BATCH)  # other noise would be a million times that


def test_each_step_has_new_noise_and_forgets_the_last_sum() -> None:
    module = Weights()
    optimizer = optimizer_of(module, sigma=1.0)
    optimizer.accumulate(Parts.of_rows(rows_of(module, 3)))

    assert not any(torch.equal(one, two) for one, two in zip(released(optimizer), released(optimizer), strict=True))
    optimizer.noise_multiplier = 0.0
    assert norm(released(optimizer)) == 0


def test_what_a_patient_adds_moves_each_weight_by_its_share_and_one_step_at_most() -> None:
    """The sum is rounded once: with and without the patient by half a step each, for which the bound leaves room."""
    module = Weights()
    optimizer, rows = optimizer_of(module), rows_of(module, 6, scale=0.01)
    optimizer.accumulate(Parts.of_rows(rows))
    together = grid_steps(optimizer)
    for patient in range(6):
        others = [other for other in range(6) if other != patient]
        optimizer.accumulate(Parts.of_rows({parameter: each[others] for parameter, each in rows.items()}))
        without = grid_steps(optimizer)
        squares = sum(each[patient].double().square().sum() for each in rows.values())
        factor = min(1.0, optimizer.bound / float(squares) ** 0.5) / GRID
        for parameter, both, one in zip(module.parameters(), together, without, strict=True):
            assert float((both - one - rows[parameter][patient].double() * factor).abs().max()) <= 1 + 1e-3


def test_noise_is_whole_before_it_is_added_and_nothing_is_rounded_after() -> None:
    module = Weights()
    rows, source, drawn = rows_of(module, 3, scale=0.01), AesNoise.seeded(3), []
    for sigma in (0.0, 0.01):
        optimizer = optimizer_of(module, sigma=sigma, seed=3)
        optimizer.accumulate(Parts.of_rows(rows))
        drawn.append(grid_steps(optimizer))

    quiet, noisy = (torch.cat([each.flatten() for each in steps]) for steps in drawn)
    assert torch.equal(noisy, quiet + source.grid_normal(tuple(quiet.shape), scale=0.01 / GRID))


@pytest.mark.parametrize("device", DEVICES)
def test_noise_is_made_on_the_processor_and_added_where_the_weights_are(device: str) -> None:
    parts = []
    for where in ("cpu", device):
        module = Weights().to(where)
        optimizer = optimizer_of(module, sigma=1.0)
        optimizer.pre_step()
        parts.append([parameter.grad.cpu() for parameter in module.parameters()])
        assert {parameter.grad.device.type for parameter in module.parameters()} == {where}

    for here, there in zip(*parts, strict=True):
        assert torch.equal(here, there)


def test_a_step_of_patients_that_are_not_finite_is_taken_like_any_other() -> None:
    """A gradient scaler would skip it, and say so by what it sends."""
    module = Weights()
    noise = released(optimizer_of(module, sigma=1.0))
    optimizer = optimizer_of(module, sigma=1.0)
    optimizer.accumulate(Parts.of_rows({parameter: torch.full_like(each, float("inf")) for parameter, each in rows_of(module, 2).items()}))

    assert optimizer.pre_step()
    for parameter, expected in zip(module.parameters(), noise, strict=True):
        assert torch.equal(parameter.grad, expected)


def test_the_release_lies_on_the_grid_before_the_division() -> None:
    module = Weights()
    optimizer = optimizer_of(module, sigma=0.01, clip=0.25)
    optimizer.accumulate(Parts.of_rows(rows_of(module, 2)))
    optimizer.add_noise()

    for parameter in module.parameters():
        steps = parameter.grad.double() / (0.25 * GRID)
        assert torch.equal(steps, torch.round(steps))
