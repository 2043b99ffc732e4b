"""Figures of the training noise: `python simulations/benchmarks/noise.py`; what torch's 32-bit seed gives away: `--recover-seed`."""

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import kstest

from fedrad_client.privacy.exact_gaussian import noise_delta, noise_distance
from fedrad_client.privacy.noise import AesNoise
from fedrad_client.privacy.optimizer import GRID
from fedrad_common import processes

Words = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float64]

N_PARAMETERS, STEPS, EPSILON = 11_000_000, 1000, 8.0  # a ResNet-18; 100 rounds of 10 steps
KNOWN = 16  # values of the noise that the attacker must know, at the beginning of one tensor
_TOLERANCE = 1e-4  # standard deviations: two values of one seed in 10⁸ agree by chance
_CHUNK = 1 << 14  # seeds at a time: their states stay in the processor's cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--recover-seed", action="store_true")
    parser.add_argument("--bits", type=int, default=24, help="of the seed that are really searched")
    options = parser.parse_args()
    processes.keep_memory()  # as in a site's training child
    torch.set_num_threads(1)
    if options.recover_seed:
        print_recovery(options.bits)
    else:
        print_figures(options.repeats)


def print_figures(repeats: int) -> None:
    wall, cpu = zip(*(seconds(lambda: draw(N_PARAMETERS)) for _ in range(repeats)), strict=True)
    agreement = [kstest(draw(10**7), "norm").pvalue for _ in range(3)]
    deviations = [abs(float(draw(10**7).std()) - 1) for _ in range(3)]
    distance = noise_distance(N_PARAMETERS, STEPS, noise_multiplier=1.0)
    delta = noise_delta(N_PARAMETERS, STEPS, noise_multiplier=1.0, epsilon=EPSILON)
    print("| figure | bar | measured | spread |\n|---|---|---|---|")
    print(f"| {N_PARAMETERS:,} draws, one thread, CPU seconds | ≤ 0.3 | {statistics.median(cpu):.3f} | {spread(cpu)}, {repeats} repeats |")
    print(f"| the same, wall seconds, shared machine | | {statistics.median(wall):.3f} | {spread(wall)} |")
    print(f"| 10⁷ draws: Kolmogorov–Smirnov p | > 0.01 | {statistics.median(agreement):.2f} | {spread(agreement)}, 3 fresh keys |")
    print(f"| 10⁷ draws: standard deviation off by | ≤ 0.1 % | {max(deviations):.4%} | the worst of 3 fresh keys |")
    print(f"| distance from exact noise, {STEPS} steps, noise multiplier 1 | | {distance:.2g} | computed |")
    print(f"| δ charged for it at ε {EPSILON:g} | | {delta:.2g} | computed |")


def draw(n: int) -> Floats:
    """(n,) in standard deviations; noise multiplier 1, a fresh key."""
    whole: npt.NDArray[np.int64] = AesNoise(os.urandom(32)).grid_normal((n,), scale=1 / GRID).numpy()
    return whole.astype(np.float64) * GRID


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def spread(values: tuple[float, ...] | list[float]) -> str:
    return f"{min(values):.3f} … {max(values):.3f}"


def print_recovery(bits: int) -> None:
    """Search 2^bits seeds for the one whose noise hides a patient's gradient of which the first 16 values are known."""
    secret = int.from_bytes(os.urandom(4))
    seeds = range(secret >> bits << bits, (secret >> bits) + 1 << bits)
    gradient = torch.randn(1000) / 1000**0.5
    gradient[:KNOWN] = 0  # a black corner
    released = gradient + torchs_noise(secret, 1000)
    begun = time.process_time()
    seed = recover_seed(released[:KNOWN].double().numpy(), seeds=seeds)
    spent = time.process_time() - begun
    assert seed is not None
    searched = min(math.ceil((seed - seeds.start + 1) / _CHUNK) * _CHUNK, len(seeds))
    left = float((released - torchs_noise(seed, 1000) - gradient).abs().max())
    print(f"torch: found among 2^{bits} seeds after {searched:,} in {spent:.1f} CPU seconds: {'right' if seed == secret else 'wrong'}")
    print(f"torch: all 2^32 at that rate: {spent / searched * 2**32 / 3600:.2f} hours on one core")
    print(f"torch: the patient's gradient, the noise taken off, is wrong by {left:.1g} at most; the noise had size 1")
    begun = time.process_time()
    ours = recover_seed(draw(KNOWN), seeds=seeds)
    print(f"fedrad: the same search of all 2^{bits} finds {ours}, in {time.process_time() - begun:.1f} CPU seconds; the key has 256 bits")


def torchs_noise(seed: int, n: int) -> torch.Tensor:
    """As Opacus draws it: (n,) float32."""
    return torch.normal(mean=0, std=1.0, size=(n,), generator=torch.Generator().manual_seed(seed))


def recover_seed(observed: Floats, *, seeds: range) -> int | None:
    """The seed of a torch CPU generator whose first call `normal(0, 1)` for at least 16 float32 begins with `observed`.

    That call draws 24 bits for each value and then makes values 0 and 8 from draws 0 and 8 (aten/native/cpu/DistributionTemplates.h).
    A seed takes 405 steps of the Mersenne twister's initialisation (Matsumoto and Nishimura 1998), thousands of seeds at a time.

    Args:
        observed: (16,) in standard deviations.
        seeds: consecutive ones, within 32 bits: torch's generator on a CPU ignores all others.
    """
    for start in range(seeds.start, seeds.stop, _CHUNK):
        chunk = np.arange(start, min(start + _CHUNK, seeds.stop), dtype=np.uint32)
        for seed in chunk[agrees(chunk, observed)].tolist():
            if np.allclose(torchs_noise(seed, KNOWN).numpy(), observed, rtol=0, atol=_TOLERANCE):
                return int(seed)
    return None


def agrees(seeds: Words, observed: Floats) -> npt.NDArray[np.bool_]:
    """(n,) whether values 0 and 8 are what the seed gives."""
    radius_bits, angle_bits = outputs(seeds, (0, 8))
    radius = np.sqrt(-2 * np.log(1 - uniform(radius_bits)))
    angle = 2 * math.pi * uniform(angle_bits)
    first, other = radius * np.cos(angle), radius * np.sin(angle)
    off = np.maximum(np.abs(first - observed[0]), np.abs(other - observed[8]))
    near: npt.NDArray[np.bool_] = off < _TOLERANCE
    return near


def uniform(bits: Words) -> Floats:
    return (bits & np.uint32(2**24 - 1)).astype(np.float64) * 2.0**-24


def outputs(seeds: Words, places: tuple[int, ...]) -> list[Words]:
    """The twister's outputs number `places`, each below 227, for every seed."""
    wanted = {each for place in places for each in (place, place + 1, place + 397)}
    state, shifted, kept = seeds.copy(), np.empty_like(seeds), dict[int, Words]()
    for number in range(max(wanted) + 1):
        if number:
            np.right_shift(state, np.uint32(30), out=shifted)
            state ^= shifted
            state *= np.uint32(1812433253)
            state += np.uint32(number)
        if number in wanted:
            kept[number] = state.copy()
    return [tempered(kept[place + 397] ^ twisted(kept[place], kept[place + 1])) for place in places]


def twisted(one: Words, following: Words) -> Words:
    mixed = (one & np.uint32(0x80000000)) | (following & np.uint32(0x7FFFFFFF))
    return (mixed >> np.uint32(1)) ^ (mixed & np.uint32(1)) * np.uint32(0x9908B0DF)


def tempered(word: Words) -> Words:
    word = word ^ word >> np.uint32(11)
    word = word ^ word << np.uint32(7) & np.uint32(0x9D2C5680)
    word = word ^ word << np.uint32(15) & np.uint32(0xEFC60000)
    return word ^ word >> np.uint32(18)


if __name__ == "__main__":
    main()
