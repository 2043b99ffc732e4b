"""The clip holds in floating point, for weights that an adversary chose: nobody moves a step's sum by more than the bound (rule 7).

A hostile model cannot make a gradient too long, for the norm is taken of the very vector that is added. It can make the last bits count:
a gradient that is the rounding error of a sum, times a million. Then whatever changes last bits of others moves the sum by a whole bound
for each of them; kernels do so where the number of images in a batch changes.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from fakes.steps import SIDE, dataset, difference, linear, one_thread, patients_of, plan, protocol  # noqa: F401 - a fixture
from torch import Tensor, nn

from fedrad_client.cohort.dataset import Dataset
from fedrad_client.privacy.batches import Batch, Source, draw_images
from fedrad_client.privacy.gradients import precision
from fedrad_client.privacy.gradients import recording as recordings
from fedrad_client.privacy.gradients.parts import Owners, Part, Parts, Products, Rows
from fedrad_client.privacy.gradients.precision import Precision, full_precision, network_precision
from fedrad_client.privacy.gradients.recording import recording
from fedrad_client.privacy.noise import AesNoise
from fedrad_client.privacy.optimizer import GRID, Clipping, PatientOptimizer, shares
from fedrad_client.privacy.training import _private_step
from fedrad_common.models import build
from fedrad_common.protocol import Model
from fedrad_common.tasks import task

PIXELS = SIDE * SIDE
CPU = torch.device("cpu")


def step(
    network: nn.Module, data: Dataset, *, clip: float = 1.0, clipping: Clipping = "flat", precision: Precision = "float32"
) -> PatientOptimizer:
    """One step without noise in which everybody is drawn, over a divisor of 1."""
    optimizer = PatientOptimizer(
        torch.optim.SGD(network.parameters(), lr=1.0), noise=AesNoise.seeded(0), noise_multiplier=0.0, clip_norm=clip, expected_batch=1.0,
        clipping=clipping,
    )  # fmt: skip
    draw = draw_images(data.owner, np.arange(data.n_patients), at_most=8, views=1, noise=AesNoise.seeded(0))

    def losses(batch: Batch) -> Tensor:
        with network_precision(CPU, precision):
            outputs = network(batch.images)
        return task("classification").loss(outputs.float(), batch.targets) * batch.weights

    with full_precision(CPU):
        _private_step(optimizer, network, losses, Source(data, "none", 1, None), draw, 16)
    return optimizer


def released(network: nn.Module, data: Dataset, *, clip: float = 1.0, clipping: Clipping = "flat") -> Tensor:
    """(n_parameters,) float64."""
    return torch.cat([parameter.grad.double().flatten() for parameter in step(network, data, clip=clip, clipping=clipping).params])


SHARE = 1e-9 / GRID  # of the bound, in steps of the grid: what one patient more may move of the others' sum


def exact_sum(network: nn.Module, data: Dataset, *, clipping: Clipping = "flat") -> Tensor:
    """Before any rounding to the grid or to float32, in steps of the grid."""
    return torch.cat([parameter.summed_grad.double().flatten() for parameter in step(network, data, clipping=clipping).params])


def residual() -> nn.Module:
    network = build(Model(name="resnet", options={"channels": 8, "stages": 1}), n_outputs=2, height=SIDE, width=SIDE)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return network


def perceptron(*, smooth: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 16), nn.Tanh() if smooth else nn.ReLU(), nn.Linear(16, 2))


class Normed(nn.Module):
    """A convolution before and after a normalisation of the given kind."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.second = nn.Conv2d(1, 4, 3, padding=1), norm, nn.Conv2d(4, 2, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.second(torch.relu(self.norm(self.first(images)))).mean((2, 3))


NORMS: dict[str, Callable[[], nn.Module]] = {
    "group": lambda: nn.GroupNorm(2, 4),
    "instance": lambda: nn.InstanceNorm2d(4, affine=True),
    "layer": lambda: nn.LayerNorm((4, SIDE, SIDE)),
}


def scaled(network: nn.Module, scale: float, *, every: int = 1) -> nn.Module:
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.mul_(scale if number % every == 0 else 1 / scale)
    return network


HOSTILE: dict[str, Callable[[], nn.Module]] = {
    **{f"residual × {scale:g}": lambda scale=scale: scaled(residual(), scale) for scale in (0.0, 1e-20, 1e-6, 1e6, 1e18)},
    **{f"residual × and ÷ {scale:g}": lambda scale=scale: scaled(residual(), scale, every=2) for scale in (1e5, 1e15)},
    **{f"perceptron × {scale:g}": lambda scale=scale: scaled(perceptron(), scale) for scale in (1e-30, 1e-3, 1e3, 1e18, 1e30)},
    **{f"{name} norm × {scale:g}": lambda make=make, scale=scale: scaled(Normed(make()), scale) for name, make in NORMS.items()
       for scale in (1e-20, 1.0, 1e18)},
    **{f"{name} norm × and ÷ 1e5": lambda make=make: scaled(Normed(make()), 1e5, every=2) for name, make in NORMS.items()},
    **{f"perceptron × and ÷ {scale:g}": lambda scale=scale: scaled(perceptron(smooth=True), scale, every=2) for scale in (1e4, 1e19)},
}  # fmt: skip


@pytest.mark.parametrize("clipping", ["flat", "normalised"])
@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_no_weights_make_a_patient_add_more_than_the_bound_or_touch_what_another_adds(
    make: Callable[[], nn.Module], clipping: Clipping
) -> None:
    network, data = make(), dataset((1, 2, 1, 1, 3, 1, 1))
    for patient in range(data.n_patients):
        assert float(released(network, patients_of(data, [patient]), clipping=clipping).norm()) <= 1

    alone = torch.stack([exact_sum(network, patients_of(data, [patient]), clipping=clipping) for patient in range(data.n_patients)])
    together = exact_sum(network, data, clipping=clipping)
    assert float((together - alone.sum(0)).norm()) <= SHARE  # hence no neighbour moves it further than its own


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_a_pass_in_bfloat16_makes_nobody_add_more_either(make: Callable[[], nn.Module]) -> None:
    """Its gradients are others, and are measured and added as they are: nothing overshoots, so nothing is charged for it."""
    network, data = make(), dataset((1, 2, 1, 1, 3, 1, 1))

    def summed(patients: list[int]) -> Tensor:
        optimizer = step(network, patients_of(data, patients), precision="bfloat16")
        assert len(patients) > 1 or float(torch.cat([each.grad.double().flatten() for each in optimizer.params]).norm()) <= 1
        return torch.cat([parameter.summed_grad.double().flatten() for parameter in optimizer.params]).clone()

    everybody = list(range(data.n_patients))
    alone = torch.stack([summed([patient]) for patient in everybody])
    assert float((summed(everybody) - alone.sum(0)).norm()) <= SHARE


def test_bfloat16_is_another_pass_and_near_float32() -> None:
    network, data = residual(), dataset((1, 2, 1, 1))
    wide, short = (
        torch.cat([each.summed_grad.flatten().clone() for each in step(network, data, precision=precision).params])
        for precision in ("float32", "bfloat16")
    )
    assert 1e-4 < float((wide - short).norm() / wide.norm()) < 0.1


@pytest.mark.parametrize("clip", [1e-6, 1.0, 1e6])
def test_the_bound_holds_from_the_least_clip_norm_to_the_greatest(clip: float) -> None:
    for make in (HOSTILE["perceptron × 1e+18"], HOSTILE["residual × 1e+06"], HOSTILE["perceptron × 1e-30"]):
        assert float(released(make(), dataset((1,)), clip=clip).norm()) <= clip


def test_normalised_clipping_makes_gradients_of_any_size_nearly_as_long_as_the_bound() -> None:
    squares = torch.tensor([0.0, 1e-30, 1e-4, 1.0, 1e12, torch.inf, torch.nan], dtype=torch.float64)
    each = shares(squares, bound=0.5, clipping="normalised")
    norms = (each * squares.sqrt())[:5].tolist()

    assert norms == pytest.approx([0.0, 0.5 * 1e-15 / 0.01, 0.25, 0.5 / 1.01, 0.5])
    assert max(norms) <= 0.5
    assert each[5:].tolist() == [0.0, 0.0]
    assert shares(squares, bound=0.5, clipping="flat")[:5].tolist() == pytest.approx([1, 1, 1, 0.5, 0.5e-6])


ROWS: dict[str, Tensor] = {
    "one large and many small": torch.cat([torch.ones(1), torch.full((8191,), 3e-4)]),
    "one large and nothing": torch.cat([torch.ones(1), torch.zeros(8191)]),
    "signs in turn": torch.tensor([1.0, -1.0]).repeat(4096),
    "all sizes": 10.0 ** torch.linspace(-38, 18, 8192),
    "squares beyond float32": torch.full((8192,), 1e25),
    "below the normal numbers": torch.full((8192,), 1e-40),
    "the greatest": torch.full((8192,), torch.finfo(torch.float32).max),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_no_vector_of_float32_is_taken_for_a_shorter_one(row: Tensor) -> None:
    for scale in (1.0, 0.999, 1.001, 7.3):
        parameter = nn.Parameter(torch.zeros(len(row)))
        optimizer = PatientOptimizer(
            torch.optim.SGD([parameter], lr=1.0), noise=AesNoise.seeded(0), noise_multiplier=0.0, clip_norm=1.0, expected_batch=1.0
        )
        optimizer.accumulate(Parts.of_rows({parameter: (row * scale)[None].clamp(max=torch.finfo(torch.float32).max)}))
        optimizer.pre_step()
        assert float(parameter.grad.double().norm()) <= 1


def products(left: Tensor, right: Tensor) -> Products:
    """(n, d, T) and (n, p, T), a patient each."""
    return Products(
        left.transpose(1, 2).double(), right.transpose(1, 2).double(), torch.arange(len(left)), torch.Size((left.shape[1], right.shape[1]))
    )


def test_a_norm_from_gram_matrices_in_float32_overshoots_where_this_one_does_not() -> None:
    """The control: ghost clipping adds up products of places of a map; where they cancel, float32 loses the norm itself."""
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 4, 1, bias=False)
    activation = torch.rand(1, 4, 1, 1).expand(1, 4, 8, 8) + 7e-3 * torch.rand(1, 4, 8, 8)
    backprop = 1e4 * torch.randn(1, 4, 8, 8)
    backprop -= backprop.mean((2, 3), keepdim=True)  # what all places have in common cancels
    a, b = activation[0].flatten(1), backprop[0].flatten(1)
    true = float(torch.linalg.matrix_norm(b.double() @ a.double().T))

    ghost = float(((a.T @ a) * (b.T @ b)).sum().clamp(min=1e-30).sqrt())
    part = products(backprop.flatten(2), activation.flatten(2))
    assert true / ghost > 1.001 or true / ghost < 0.999  # off by more than a tenth of a per cent, in either direction

    optimizer = PatientOptimizer(
        torch.optim.SGD(layer.parameters(), lr=1.0), noise=AesNoise.seeded(0), noise_multiplier=0.0, clip_norm=1.0, expected_batch=1.0
    )
    optimizer.accumulate(Parts({layer.weight: part}, 1))
    optimizer.pre_step()
    assert float(layer.weight.grad.double().norm()) == pytest.approx(1, abs=2e-4)
    assert float(layer.weight.grad.double().norm()) <= 1


def test_a_norm_from_gram_matrices_has_the_digits_of_float64_where_a_hundredth_of_the_terms_is_left() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(4, 8, 1, generator=generator), torch.randn(4, 32, 1, generator=generator)
    left, right = torch.cat([left, -left], 2), torch.cat([right, right + 1e-2 * torch.randn(4, 32, 1, generator=generator)], 2)
    part = products(left, right)

    assert part.squares.tolist() == pytest.approx(part.rows().double().flatten(1).square().sum(1).tolist(), rel=1e-4)
    exact = torch.bmm(left.double(), right.double().transpose(1, 2)).flatten(1).square().sum(1)
    assert part.squares.tolist() == pytest.approx(exact.tolist(), rel=1e-9)
    assert not part.apart


@pytest.mark.parametrize("scale", [1e-3, 1e-6, 1e-9, 1e-12, 1e-15, 0.0])
def test_where_a_patients_terms_cancel_to_the_last_digit_what_is_added_is_still_what_was_measured(scale: float) -> None:
    """A gradient that is `scale` of its terms: the smaller, the fewer digits Gram matrices have of it; then it is formed."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(4, 8, 1, generator=generator), torch.randn(4, 32, 1, generator=generator)
    left, right = torch.cat([left, -left], 2), torch.cat([right, right + scale * torch.randn(4, 32, 1, generator=generator)], 2)
    left[2] *= 1e18
    part = products(left, right)
    alone = torch.bmm(left.double(), right.double().transpose(1, 2)).flatten(1)
    parameter = nn.Parameter(torch.zeros(8, 32))
    optimizer = PatientOptimizer(
        torch.optim.SGD([parameter], lr=1.0), noise=AesNoise.seeded(0), noise_multiplier=0.0, clip_norm=1e-6, expected_batch=1.0
    )
    optimizer.accumulate(Parts({parameter: part}, 4))
    share = (optimizer.bound / alone.norm(dim=1).clamp(min=1e-300)).clamp(max=1) / (1e-6 * GRID)

    assert float((optimizer.params[0].summed_grad.flatten() - share @ alone).norm()) <= SHARE
    assert float((share[:, None] * alone).norm(dim=1).max()) * GRID <= 1


def test_a_patient_that_adds_nothing_keeps_what_is_not_finite_to_itself() -> None:
    left, right = torch.ones(3, 2, 2), torch.ones(3, 5, 2)
    left[1, 0, 0] = torch.inf
    for part in (products(left, right), Rows(torch.bmm(left, right.transpose(1, 2)).flatten(1), torch.Size((2, 5)))):
        assert part.squares[[0, 2]].tolist() == pytest.approx([40, 40], rel=1e-6)
        assert not part.squares[1].isfinite()
        part.weighted(torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64), out=(added := torch.empty(10, dtype=torch.float64)))
        assert added.tolist() == [4.0] * 10


# ── last bits ──


def amplifying(data: Dataset, seed: int) -> nn.Module:
    """Its first layer's outputs are 0 but for rounding, on the first image; its second multiplies them by a million."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.from_numpy(data.pixels[0].astype(np.float32) / np.float32(65535)).double().flatten()
    weights = torch.randn(16, PIXELS, generator=generator, dtype=torch.float64)
    weights -= (weights @ image)[:, None] * image / (image @ image)
    network = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 16, bias=False), nn.Linear(16, 2))
    with torch.no_grad():
        network[1].weight.copy_(weights)
        network[2].weight.copy_(1e6 * torch.randn(2, 16, generator=generator))
        network[2].bias.zero_()
    return network


def influence(count: int) -> float:
    """How far one patient of `count` moves the sum, at worst, all of them having one picture."""
    data = dataset((1,) * count)
    data = Dataset(data.pixels[:1].repeat(count, 0), np.ones_like(data.labels), data.owner, count)
    without = patients_of(data, list(range(count - 1)))
    networks = [amplifying(data, seed) for seed in range(12)]
    return max(float((exact_sum(network, data) - exact_sum(network, without)).norm()) for network in networks) / _unit()


def _unit() -> float:
    """What a gradient far beyond the bound adds, in the units of an exact sum."""
    return float(exact_sum(HOSTILE["perceptron × 1000"](), dataset((1,))).norm())


@pytest.mark.parametrize("count", [2, 4, 17])
def test_nobodys_last_bits_depend_on_who_else_is_drawn(count: int) -> None:
    assert influence(count) <= 1 + 1e-6


def test_in_batches_of_any_size_one_patient_moves_the_sum_by_far_more_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack without the defence: batches as large as the patients who happen to be in them."""
    cut = Batch.cut
    monkeypatch.setattr(Batch, "cut", lambda self, chunk, filled_to=0: cut(self, chunk))

    assert max(influence(2), influence(4)) > 1.5  # by processor: 1.99 to 5.2


# ── what is not finite ──


def overflowing() -> nn.Module:
    """Finite for a dark image, infinite for a bright one."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.0)
        network[1].weight.fill_(1e19)
        network[2].weight.copy_(torch.eye(4) * 1e19)
        network[3].weight.copy_(torch.randn(2, 4, generator=torch.Generator().manual_seed(0)))
    return network


def test_a_patient_that_is_not_finite_adds_nothing_and_nobodys_sums_meet_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset((1, 2, 1, 1))
    pixels = np.zeros_like(data.pixels)  # black
    pixels[:, 0, 0] = 1  # of 65,535
    pixels[1] = 65535  # one of the second patient's two images
    data = Dataset(pixels, data.labels, data.owner, 4)
    real, spoilt = recordings.parts_of, []

    def watch(layer: nn.Module, activation: Tensor, backprop: Tensor, owners: Owners) -> dict[Tensor, Part]:
        spoilt.append((layer, not (activation.isfinite().all() and backprop.isfinite().all())))
        return real(layer, activation, backprop, owners)

    monkeypatch.setattr(recordings, "parts_of", watch)
    found = exact_sum(overflowing(), data)
    met = [place for place, (_, bad) in enumerate(spoilt) if bad]
    assert met
    assert all(spoilt[place + 1] == (spoilt[place][0], False) for place in met)  # that try is thrown away, and made again without
    assert float((found - exact_sum(overflowing(), patients_of(data, [0, 2, 3]))).norm()) <= SHARE
    assert float(found.norm()) > 0
    assert float(exact_sum(overflowing(), patients_of(data, [1])).norm()) == 0


def test_a_weight_of_zero_does_not_remove_what_is_not_a_number() -> None:
    """The control: why it is done by selection."""
    rows = torch.tensor([[1.0, 2.0], [torch.nan, 3.0]])

    assert (torch.tensor([1.0, 0.0]) @ rows).isnan().any()
    assert torch.equal(torch.where(torch.tensor([[True], [False]]), rows, 0.0).sum(0), rows[0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["forwards", "backwards"])
def test_a_gradient_says_of_whom_it_is_not_finite_and_is_right_for_everybody_else(bad: float, where: str) -> None:
    module = linear()
    images, owner = torch.rand(4, 1, SIDE, SIDE), torch.tensor([0, 1, 1, 2])
    with recording(module) as kept:
        right = kept.per_patient(module(images).sum(1), owner=owner)
        weights = torch.tensor([1.0, 1.0, bad if where == "backwards" else 1.0, 1.0])
        if where == "forwards":
            images = images.clone()
            images[2, 0, 3, 3] = bad
        found = kept.per_patient(module(images).sum(1) * weights, owner=owner)

    for parameter, rows in found.items():
        assert rows[1].isnan().all()
        assert torch.equal(rows[[0, 2]], right[parameter][[0, 2]])


# ── float32 is float32 ──


def switches() -> list[object]:
    return [getattr(place, name) for place, name, _ in precision._precision_switches()]


def test_nothing_is_computed_in_less_than_float32_inside_and_all_is_as_before_outside() -> None:
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.benchmark = True
    try:
        before = switches()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loose = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
            with full_precision(CPU):
                inside, strict = switches(), (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        after = switches()
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.benchmark = False

    assert {"tf32", "bf16"} < set(before)  # cuDNN's convolutions use TF32 unless told otherwise
    assert inside == [value for _, _, value in precision._precision_switches()]
    assert not {"tf32", "bf16"} & set(inside)
    assert (loose, strict) == (torch.bfloat16, torch.float32)
    assert after == before


def test_an_error_leaves_the_process_as_it_was() -> None:
    before = switches()
    with pytest.raises(ZeroDivisionError), full_precision(CPU):
        raise ZeroDivisionError

    assert switches() == before


def test_a_round_in_a_process_set_to_half_precision_gives_the_same_bytes() -> None:
    expected = difference(dataset(), perceptron(), constants=plan(sigma=1.0))
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loose = perceptron()(torch.ones(1, 1, SIDE, SIDE)).dtype
            found = difference(dataset(), perceptron(), constants=plan(sigma=1.0))
    finally:
        torch.set_float32_matmul_precision("highest")

    assert loose == torch.bfloat16  # the process was set so
    assert found.tobytes() == expected.tobytes()


def test_the_slack_is_taken_off_the_bound_and_not_off_the_noise() -> None:
    """What the accountant is told is the clip norm; a patient is clipped below it, by more than floating point can lose."""
    optimizer = step(perceptron(), dataset((1,)), clip=2.0)
    n_parameters = sum(parameter.numel() for parameter in optimizer.params)

    assert optimizer.max_grad_norm == 2.0
    assert 0 < 1 - optimizer.bound / 2.0 <= 1e-4 + n_parameters**0.5 * 2**-24 + 1e-12
    assert optimizer.noise_multiplier == 0.0
    assert protocol().privacy.clip_norm == 1.0
