"""Pooling in a private pass is torch's pooling: the same numbers, and of equal ones the same is taken."""

import copy

import pytest
import torch
from torch import Tensor, nn

from fedrad_client.privacy.gradients.pooled import pooled, pools_fast
from fedrad_client.privacy.gradients.recording import recording

POOLS: dict[str, tuple[nn.MaxPool2d | nn.MaxPool3d, tuple[int, ...]]] = {
    "halves": (nn.MaxPool2d(2), (3, 8, 8)),
    "overlapping": (nn.MaxPool2d(3, stride=2, padding=1), (5, 9, 7)),
    "a side of its own each": (nn.MaxPool2d((3, 2), stride=(1, 2), padding=(1, 0), dilation=(2, 1)), (2, 9, 8)),
    "rounded up": (nn.MaxPool2d(2, ceil_mode=True), (4, 7, 5)),
    "volumes": (nn.MaxPool3d(2), (3, 4, 6, 8)),
    "volumes, overlapping": (nn.MaxPool3d(3, stride=2, padding=1), (2, 5, 6, 7)),
}


@pytest.mark.parametrize("name", POOLS)
def test_numbers_and_gradients_are_torchs_where_many_are_equal(name: str) -> None:
    layer, size = POOLS[name]
    assert pools_fast(layer)
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(0, 3, (6, *size), generator=generator).float().requires_grad_()  # most windows hold their largest number twice
    expected = layer(maps)
    back = torch.randn(expected.shape, generator=generator)
    found = pooled(maps, layer)

    assert torch.equal(found, expected)
    assert found.is_contiguous()
    assert torch.equal(torch.autograd.grad(found, maps, back)[0], torch.autograd.grad(expected, maps, back)[0])


def test_maps_of_any_layout_and_a_number_that_is_none_are_taken() -> None:
    layer = nn.MaxPool2d(2)
    maps = torch.randn(4, 3, 6, 6).to(memory_format=torch.channels_last)
    maps[1, 2, 3, 3] = torch.nan
    torch.testing.assert_close(pooled(maps, layer), layer(maps), rtol=0, atol=0, equal_nan=True)


def test_maps_without_a_batch_are_torchs_business() -> None:
    layer, one = nn.MaxPool3d(2), torch.randn(4, 6, 8, 8)
    assert torch.equal(pooled(one, layer), layer(one))
    with pytest.raises(RuntimeError, match="3D or 4D"):
        pooled(torch.randn(2, 3, 4, 4, 4), nn.MaxPool2d(2))


def test_what_returns_its_indices_too_and_a_kind_of_ones_own_stay_as_they_are() -> None:
    class Own(nn.MaxPool2d):
        pass

    assert not pools_fast(nn.MaxPool2d(2, return_indices=True))
    assert not pools_fast(Own(2))
    assert not pools_fast(nn.AvgPool2d(2))


def test_a_recorded_pass_pools_and_the_module_is_as_before_afterwards() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 1))
    images, owner = torch.randn(4, 1, 8, 8), torch.arange(4)
    before = copy.deepcopy(vars(network[1]))

    with recording(network) as kept:
        assert "forward" in vars(network[1])
        found = kept.per_patient(network(images)[:, 0], owner=owner)
    assert vars(network[1]).keys() == before.keys()
    for parameter, rows in found.items():
        for image, row in zip(images, rows, strict=True):
            alone: Tensor = torch.autograd.grad(network(image[None])[0, 0], parameter)[0]
            torch.testing.assert_close(row.float(), alone, rtol=1e-5, atol=1e-6)
