"""A step's images in parts of whole patients, of one constant shape; where memory runs out, the same images in smaller parts."""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from fakes.steps import RATE, SIDE, dataset, difference, linear, one_thread, plan, protocol  # noqa: F401 - a fixture
from torch import nn

from fedrad_client.privacy import batches
from fedrad_client.privacy.batches import (
    Batch,
    Source,
    chunks,
    draw_images,
    drawn_images,
    images_at_a_time,
    in_parts,
    out_of_memory,
    split_by_patient,
)
from fedrad_client.privacy.gradients import parts
from fedrad_client.privacy.gradients.parts import Parts, Rows
from fedrad_client.privacy.gradients.recording import recording
from fedrad_client.privacy.noise import AesNoise
from fedrad_client.privacy.optimizer import SLACK, PatientOptimizer
from fedrad_common.augmentation import augment

OWNER = np.repeat([0, 1, 3, 4, 7], (3, 1, 9, 1, 2))
VIEWS = protocol(training__augmentation="mr", training__multiplicity=2)
COUNTS = (1, 4, 2, 1, 3, 1, 1, 2)
EIGHT = 8  # images that fit at first, views and all


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few patients make several parts; last bits, which are why parts are larger, are looked at in test_places.py."""
    monkeypatch.setattr(batches, "_LEAST_VIEWS", 1)


# ── which images ──


def test_at_most_max_images_of_a_patient_are_drawn_at_random_and_all_of_the_others() -> None:
    owner = np.repeat(np.arange(3), (2, 50, 3))
    rows = [drawn_images(owner, np.array([0, 1]), at_most=5, noise=AesNoise.seeded(seed)) for seed in range(200)]

    assert all(list(row[:2]) == [0, 1] and len(row) == 7 and set(row[2:]) <= set(range(2, 52)) for row in rows)
    assert all(len(set(row)) == 7 and list(row) == sorted(row) for row in rows)
    assert set(np.concatenate(rows)) == set(range(52))
    assert len(drawn_images(owner, np.array([], dtype=np.int64), at_most=5, noise=AesNoise.seeded(0))) == 0


def test_a_patients_weights_add_up_to_one_and_are_equal() -> None:
    draw = draw_images(OWNER, np.array([0, 3, 4]), at_most=4, views=1, noise=AesNoise.seeded(0))

    assert draw.owner.tolist() == [0] * 3 + [3] * 4 + [4]
    np.testing.assert_allclose(draw.weights, [1 / 3] * 3 + [1 / 4] * 4 + [1])


# ── in which parts ──


def test_a_patient_is_never_split_over_micro_batches() -> None:
    parts = list(split_by_patient(OWNER, at_most=4))

    assert [(part.start, part.stop) for part in parts] == [(0, 4), (4, 13), (13, 16)]
    assert list(split_by_patient(OWNER[:0], at_most=4)) == []


def test_only_a_patient_with_more_images_than_fit_is_taken_in_chunks() -> None:
    assert [(chunk.start, chunk.stop) for chunk in chunks(slice(4, 13), 4)] == [(4, 8), (8, 12), (12, 13)]
    assert [(chunk.start, chunk.stop) for chunk in chunks(slice(0, 4), 4)] == [(0, 4)]


@pytest.mark.parametrize("micro_batch", [1, 7, 64, 256])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_how_many_images_at_a_time_comes_from_constants_and_fits(micro_batch: int, device: str) -> None:
    for views in (1, 3, 16):
        for batch in (0.5, 5.0, 48.0, 375.0, 1e6):
            for most in (1, 8, 100):
                size = images_at_a_time(micro_batch, expected_batch=batch, views=views, device=device, most_of_a_patient=most)
                assert 1 <= size <= max(1, micro_batch // views)


def test_where_patients_may_bring_many_images_more_of_them_fit_into_a_part() -> None:
    one, many = (images_at_a_time(256, expected_batch=32.0, views=1, device="cpu", most_of_a_patient=most) for most in (1, 6))
    assert (one, many) == (16, 32)  # of six each, two patients leave a quarter of 16 empty, five a sixteenth of 32


def source(views: int = 1) -> Source:
    return Source(dataset(), "none" if views == 1 else "mr", views, None)


@pytest.mark.parametrize("views", [1, 3])
def test_every_part_has_one_shape_and_blank_images_have_neither_weight_nor_label(views: int) -> None:
    made = source(views)
    draw = draw_images(made.dataset.owner, np.array([1, 2, 4]), at_most=8, views=views, noise=AesNoise.seeded(0))
    batch = made.batch(draw, slice(0, 9)).cut(slice(4, 9), filled_to=12)  # of two and of three images

    assert batch.images.shape == (12 * views, 1, SIDE, SIDE)
    assert batch.owner.tolist() == [0, 0, 1, 1, 1, *range(2, 9)]
    assert batch.n_patients == 2
    assert batch.images[5 * views :].abs().max() == 0
    assert batch.targets[5 * views :].isnan().all()
    assert batch.weights[5 * views :].abs().max() == 0
    weights = batch.weights.reshape(-1, views).sum(1)
    torch.testing.assert_close(torch.stack([weights[batch.owner == patient].sum() for patient in range(2)]), torch.ones(2))


def test_the_shape_is_the_same_however_many_patients_are_drawn() -> None:
    sizes: set[int] = set()
    network = linear()
    network.register_forward_hook(lambda module, inputs, output: sizes.add(len(output)))
    for counts in ((1,), (1,) * 7, (1,) * 8, (1,) * 9, (1,) * 20, (20, 1)):
        difference(dataset(counts), network, setup=protocol(privacy__max_images=20))

    assert sizes == {EIGHT}


def test_the_size_of_micro_batches_does_not_matter() -> None:
    np.testing.assert_allclose(difference(dataset(), micro_batch=1), difference(dataset(), micro_batch=64), rtol=1e-4, atol=1e-7)


def test_a_patient_with_more_images_than_fit_adds_the_mean_over_all_of_them_clipped_once() -> None:
    setup = protocol(privacy__max_images=50, privacy__clip_norm=0.5)
    data = dataset((1, 50, 2))

    np.testing.assert_allclose(difference(data, setup=setup, micro_batch=4), difference(data, setup=setup, micro_batch=64), atol=1e-7)


# ── out of memory ──


class Small:
    """A memory in which only `most` images fit, from the `first`-th forward pass on."""

    def __init__(self, most: int, *, first: int = 0, error: Callable[[], Exception] = lambda: torch.OutOfMemoryError("CUDA out of memory")):
        self.most, self.first, self.error = most, first, error
        self.passes = self.failed = 0

    def network(self) -> nn.Module:
        made = linear()
        made.register_forward_hook(self.check)  # after the layers have run: they have left something behind
        return made

    def check(self, module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        self.passes += 1
        if self.passes > self.first and len(output) > self.most:
            self.failed += 1
            raise self.error()


ERRORS = {
    "torch": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "python": MemoryError,
    "cpu": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
    "cublas": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cudnn": lambda: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_out_of_memory_the_release_has_the_bytes_of_a_run_that_knew_its_memory_before(error: Callable[[], Exception]) -> None:
    data, constants, setup = dataset(COUNTS), plan(sigma=1.0, rate=0.8), protocol(privacy__max_images=3, privacy__steps_per_round=2)
    small = Small(4, error=error)

    tried = difference(data, small.network(), setup=setup, constants=constants)
    known = difference(data, setup=setup, constants=constants, micro_batch=4)
    assert small.failed == 1
    assert tried.tobytes() == known.tobytes()


@pytest.mark.parametrize("first", [0, 1])
def test_whoever_is_computed_again_has_the_same_images_views_and_noise(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    """In parts of another shape gradients may differ in their last bits, within what the bound leaves free; other views would show."""
    data, constants = dataset(COUNTS), plan(sigma=3.0, rate=0.8)
    small = Small(8, first=first)

    tried = difference(data, small.network(), setup=VIEWS, constants=constants, micro_batch=16)
    enough = difference(data, setup=VIEWS, constants=constants, micro_batch=16)
    other_parts = difference(data, setup=VIEWS, constants=constants, micro_batch=8)
    with monkeypatch.context() as patch:
        mirrored = lambda name, images, draws: augment(name, images, -draws)  # noqa: E731
        patch.setattr(batches, "augment", mirrored)
        other = difference(data, setup=VIEWS, constants=constants, micro_batch=16)
    assert small.failed == 1
    assert np.linalg.norm(other_parts - enough) < RATE * SLACK / 5
    assert np.linalg.norm(tried - enough) < RATE * SLACK / 5 < 0.01 * np.linalg.norm(other - enough)


def test_a_retry_draws_no_patient_no_image_and_no_noise_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(network: nn.Module) -> list[tuple[str, object]]:
        calls: list[tuple[str, object]] = []
        with monkeypatch.context() as patch:
            for name in ("bernoulli", "integers", "uniform", "grid_normal"):
                real = getattr(AesNoise, name)

                def spy(self: AesNoise, *arguments: object, _name: str = name, _real=real, **settings: object):
                    calls.append((_name, arguments))
                    return _real(self, *arguments, **settings)

                patch.setattr(AesNoise, name, spy)
            setup = protocol(privacy__max_images=2, privacy__steps_per_round=3)
            difference(dataset(), network, setup=setup, constants=plan(sigma=1.0, rate=0.8))
        return calls

    assert counted(Small(1, first=1).network()) == counted(linear())


@pytest.mark.parametrize("where", ["squared_norms", "_sum_under"])
def test_memory_that_runs_out_while_clipping_counts_nobody_twice(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = getattr(parts, where), [0]

    def full(*arguments: object, **named: object):
        calls[0] += 1
        if calls[0] == 2:  # the second parameter's
            raise torch.OutOfMemoryError
        return real(*arguments, **named)

    data = dataset((1,) * 12)
    known = difference(data, micro_batch=4)
    monkeypatch.setattr(parts, where, full)
    np.testing.assert_allclose(difference(data), known, rtol=0, atol=1e-6)  # four patients at a time, or twelve: a step of the grid or two
    assert calls[0] > 2


@pytest.mark.parametrize("setup", [VIEWS, protocol(privacy__unit="none", privacy__epsilon=None)], ids=["private", "plain"])
def test_where_not_even_one_image_fits_the_work_fails_and_any_other_error_is_not_tried_again(setup) -> None:
    nothing, broken = Small(0), Small(0, error=lambda: RuntimeError("CUDA error: an illegal memory access was encountered"))

    with pytest.raises(torch.OutOfMemoryError):
        difference(dataset(), nothing.network(), setup=setup)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        difference(dataset(), broken.network(), setup=setup)
    assert (nothing.failed, broken.failed) == (3 if setup is VIEWS else 4, 1)  # of 8 images, or 4 in two views each, down to one


def test_without_privacy_a_retry_gives_the_same_mean() -> None:
    setup = protocol(privacy__unit="none", privacy__epsilon=None, training__augmentation="mr")
    small = Small(2, first=1)

    np.testing.assert_allclose(
        difference(dataset(), small.network(), setup=setup), difference(dataset(), setup=setup), rtol=1e-4, atol=1e-7
    )
    assert small.failed == 2


def test_what_fitted_once_is_not_tried_larger_again_in_the_round() -> None:
    small = Small(2)
    difference(dataset((1,) * 8), small.network(), setup=protocol(privacy__steps_per_round=3))

    assert (small.failed, small.passes) == (2, 2 + 3 * 4)


def test_a_part_that_failed_leaves_no_calls_behind() -> None:
    """They would hold their memory, and be taken for a part of the next one."""
    with recording(linear()) as kept:
        with contextlib.suppress(MemoryError), kept.forgetting():
            kept.keep("first", nn.Identity(), (torch.ones(1),), torch.ones(1))
            assert len(kept.calls) == 1
            raise MemoryError
        assert kept.calls == []


def test_parts_get_smaller_and_every_image_is_done_once() -> None:
    made = source()
    draw = draw_images(made.dataset.owner, np.arange(5), at_most=8, views=1, noise=AesNoise.seeded(0))  # of 1, 4, 2, 1 and 3 images
    done: list[list[tuple[int, int]]] = []

    def work(batches: Iterator[Batch]) -> None:
        seen = [(batch.n_patients, len(batch.images)) for batch in batches]
        if done and seen[0][1] > 2:
            raise MemoryError
        done.append(seen)

    assert in_parts(made, draw, work, at_most=6, filled=True) == 1
    assert done == [[(2, 6)], [(1, 1), (1, 1)], [(1, 1)], [(1, 1)] * 3]


def test_only_a_lack_of_memory_is_one() -> None:
    assert all(out_of_memory(make()) for make in ERRORS.values())
    assert not any(map(out_of_memory, (RuntimeError("shape mismatch"), ValueError("out of memory"), KeyError())))


class Failing(Rows):
    """The second one it is asked of finds no memory for its sum."""

    asked = 0

    def weighted(self, factors: torch.Tensor, *, out: torch.Tensor) -> None:
        Failing.asked += 1
        if Failing.asked == 2:
            raise RuntimeError("out of memory")
        super().weighted(factors, out=out)


def test_a_failed_clip_adds_nothing() -> None:
    network = linear()
    optimizer = PatientOptimizer(
        torch.optim.SGD(network.parameters(), lr=1.0), noise=AesNoise.seeded(0), noise_multiplier=0.0, clip_norm=1.0, expected_batch=1.0
    )
    with pytest.raises(RuntimeError):
        optimizer.accumulate(Parts({weight: Failing(torch.ones(2, weight.numel()), weight.shape) for weight in network.parameters()}, 2))

    assert all(parameter.summed_grad is None for parameter in network.parameters())
