"""Torch's noise falls to whoever knows 16 of its values: 32 bits are searched. Ours does not, and no 32 bits lead into it."""

import ast
import functools
import importlib.util
import inspect
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from fedrad_client import answer, app
from fedrad_client.privacy.gradients.parts import Parts
from fedrad_client.privacy.noise import AesNoise
from fedrad_client.privacy.optimizer import GRID, PatientOptimizer

ROOT = Path(__file__).resolve().parents[2]
BATCH, SIGMA, CLIP = 5.0, 1.3, 0.5
KNOWN = 16  # values of the noise that the attacker knows
SECRET = 0xC0FFEE42
SEEDS = range(SECRET - 40_000, SECRET - 40_000 + 2**16)  # the attacker's share of the 2³² on this test's machine


def attack() -> ModuleType:
    spec = importlib.util.spec_from_file_location("noise_benchmark", ROOT / "simulations" / "benchmarks" / "noise.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ATTACK = attack()
torchs_noise, recover_seed = ATTACK.torchs_noise, ATTACK.recover_seed


def released(optimizer_of: type[DPOptimizer], **settings: object) -> tuple[Tensor, Tensor]:
    """One step of one patient whose picture has a black corner: the noisy gradient that leaves, and the clipped one that must not."""
    model = nn.Linear(64, 1, bias=False)
    plain = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer = optimizer_of(plain, noise_multiplier=SIGMA, **settings)
    row = torch.randn(1, 1, 64)
    row[..., :KNOWN] = 0
    row *= 0.9 * CLIP / row.norm()  # is not clipped any more
    model.weight.grad_sample = row
    if isinstance(optimizer, PatientOptimizer):
        optimizer.accumulate(Parts.of_rows({model.weight: row}))
    optimizer.pre_step()
    return model.weight.grad.flatten(), row.flatten()


def noise_known(gradient: Tensor) -> np.ndarray:
    """What the attacker reads off the black corner, in standard deviations."""
    return (gradient[:KNOWN].double() * BATCH / (SIGMA * CLIP)).numpy()


def opacus(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return released(DPOptimizer, max_grad_norm=CLIP, expected_batch_size=int(BATCH), generator=generator)


def ours(noise: AesNoise) -> tuple[Tensor, Tensor]:
    return released(PatientOptimizer, clip_norm=CLIP, expected_batch=BATCH, noise=noise)


def test_torchs_generator_has_32_bits() -> None:
    assert torch.equal(torchs_noise(SECRET, 100), torchs_noise(SECRET + 2**32, 100))
    assert not torch.equal(torchs_noise(SECRET, 100), torchs_noise(SECRET + 1, 100))


def test_the_attack_knows_torchs_twister() -> None:
    seeds = np.array([0, 1, SECRET, 2**32 - 1], dtype=np.uint32)
    expected = [np.random.RandomState(seed).randint(0, 2**32, 9, dtype=np.uint32)[[0, 8]] for seed in seeds.tolist()]

    np.testing.assert_array_equal(np.stack(ATTACK.outputs(seeds, (0, 8)), axis=1), expected)


def test_opacus_with_torchs_generator_gives_the_seed_and_the_patient_away() -> None:
    gradient, patient = opacus(SECRET)
    seed = recover_seed(noise_known(gradient), seeds=SEEDS)

    assert seed == SECRET
    left = gradient * BATCH - torchs_noise(seed, 64) * (SIGMA * CLIP)
    torch.testing.assert_close(left, patient, rtol=0, atol=1e-5)


def test_the_same_attack_finds_nothing_in_ours() -> None:
    gradient, _ = ours(AesNoise(os.urandom(32)))

    assert recover_seed(noise_known(gradient), seeds=SEEDS) is None


def test_noise_from_a_small_seed_would_fall_whatever_the_cipher() -> None:
    """Why `seeded` must not be within reach of a site: AES is no help when the key can be guessed."""
    gradient, patient = ours(AesNoise.seeded(77))

    def noise(seed: int) -> Tensor:
        return AesNoise.seeded(seed).grid_normal((64,), scale=SIGMA / GRID) * (GRID * CLIP)

    seed = next(each for each in range(256) if torch.allclose(noise(each)[:KNOWN].float(), gradient[:KNOWN] * BATCH, atol=1e-5))
    assert seed == 77
    torch.testing.assert_close((gradient * BATCH - noise(seed)).float(), patient, rtol=0, atol=1e-5)


def calls(tree: ast.AST, *names: str) -> list[ast.Call]:
    """Calls of functions or methods of these names."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [node for node in found if {getattr(node.func, "attr", None), getattr(node.func, "id", None)} & set(names)]


@functools.cache
def sources(folder: str) -> dict[str, ast.AST]:
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in sorted((ROOT / folder).rglob("*.py"))}


def test_no_site_makes_noise_from_a_seed() -> None:
    trees = sources("client") | sources("common") | sources("server")

    assert [name for name, tree in trees.items() if calls(tree, "seeded")] == []
    assert calls(ast.parse("noise = AesNoise.seeded(1)"), "seeded")  # such a call would be seen


def test_the_only_key_is_the_reservations_own() -> None:
    made = {(name, ast.unparse(call)) for name, tree in sources("client").items() for call in calls(tree, "AesNoise")}

    assert made == {
        ("client/fedrad_client/work/compute.py", "AesNoise(job.secret)"),
        ("client/fedrad_client/privacy/noise.py", "AesNoise(_derived(self._key, f'fork {label}'))"),
    }


def test_the_reservations_bytes_are_the_operating_systems() -> None:
    keywords = [node for tree in sources("client").values() for node in ast.walk(tree) if isinstance(node, ast.keyword)]
    passed = {ast.unparse(keyword.value) for keyword in keywords if keyword.arg == "entropy"}

    for each in (answer.answer, app.handle, app.open_and_handle, app.answer_in_slot, app.make_app):
        assert inspect.signature(each).parameters["entropy"].default is os.urandom
    assert passed == {"entropy"}  # handed on, never made


def test_no_other_generator_is_near_the_noise() -> None:
    weak = ("Generator", "manual_seed", "default_rng", "RandomState", "randn", "randn_like", "normal_", "normal", "randint", "randperm")
    using = {name for name, tree in sources("client").items() if calls(tree, *weak)}

    quality = "client/fedrad_client/intake/quality/"  # folds of a check whose result a person reads, and nothing else does
    probe = "client/fedrad_client/privacy/trainable.py"  # its weights: no patient, no release
    assert using <= {probe, f"{quality}orientation.py", f"{quality}separation.py"}
