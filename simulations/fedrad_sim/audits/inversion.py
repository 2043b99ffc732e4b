"""An attacker who sees a run's updates paints the image that made them, and points to it among candidates.

The network is the easiest to invert there is: of a linear first layer with a bias, the weights' gradient over the bias's is the image
itself (Phong et al. 2018; Geiping et al. 2020, proposition 3.1). Nobody but the one patient is in the batch, and all updates are averaged.
A second attacker paints nothing: of all candidates it takes the one whose own gradient has the largest inner product with the updates,
which no other rule can beat when the noise is Gaussian (gradients here are of one length).
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedrad_common.profiles import SCALE
from fedrad_sim.audits import bounds
from fedrad_sim.audits.drawings import picture
from fedrad_sim.audits.finding import CONFIDENCE, Arm, Finding
from fedrad_sim.audits.journal import SILENT, Bar, Row, played
from fedrad_sim.audits.setting import DELTA, Setting, cohort_of, make_setting, secret

Floats = npt.NDArray[np.float64]
Truth = npt.NDArray[np.int64]
SIDE, FINE, PATIENTS, ROUNDS = 28, 3, 100, 4
SHOWN = 8
MOST, LEAST = 0.05, 0.9  # found with privacy, at most; and without, at least


def audit(out: Path, *, epsilon: float, candidates: int, repeats: int, seed: int, bar: Bar = SILENT) -> Finding:
    """Every candidate is the target `repeats` times, under fresh noise."""
    start, arms = time.monotonic(), []
    images, truth = phantoms(candidates, seed=seed)
    setting = make_setting(epsilon=epsilon, patients=PATIENTS, rate=1.0, rounds=ROUNDS, side=SIDE, bias=True)
    for name, share, times in (("with privacy", 1.0, repeats), ("no noise", 0.0, 1)):
        path = out / "inversion" / f"{name.replace(' ', '-')}.jsonl"
        arms.append(_arm(setting.with_noise(share), images, truth, path, name=name, trials=times * candidates, seed=seed, bar=bar))
    return Finding(
        audit="inversion", epsilon=epsilon, delta=DELTA, unit="patient", arms=tuple(arms), seconds=time.monotonic() - start,
        settings={"candidates": candidates, "repeats": repeats, "rounds": ROUNDS, "seed": seed},
    )  # fmt: skip


def phantoms(n: int, *, seed: int) -> tuple[npt.NDArray[np.uint16], Truth]:
    """(n, SIDE, SIDE) chests that never belonged to anyone, every other one ill."""
    from fedrad_sim.anatomy import Drift, Poses, Textures, attenuation, draw_bodies, expose

    rng, drift = np.random.default_rng(seed), Drift(rows=SIDE * FINE, columns=SIDE * FINE)
    truth = np.arange(n) % 2
    rays = attenuation(draw_bodies(truth == 1, rng), Poses.draw(n, rng), drift=drift, textures=Textures(rng))
    fine = expose(rays, drift, rng) / (2**drift.bits_stored - 1)
    coarse = fine.reshape(n, SIDE, FINE, SIDE, FINE).mean((2, 4))
    return (coarse.clip(0, 1) * SCALE).round().astype(np.uint16), truth


def painted(release: Floats) -> Floats:
    """(SIDE, SIDE) in [0, 1] where the update is one image's alone: weights over bias; what comes out of noise is scaled to be seen."""
    *weights, bias = release
    image = np.array(weights).reshape(SIDE, SIDE) / bias
    if image.min() >= -0.01 and image.max() <= 1.01:
        return np.asarray(image.clip(0, 1), dtype=np.float64)
    low, high = np.quantile(image, [0.01, 0.99])
    return np.asarray(((image - low) / (high - low)).clip(0, 1), dtype=np.float64)


def nearest(image: Floats, candidates: Floats) -> int:
    """By correlation, after what all candidates have in common is taken away: chests look alike."""
    common = candidates.mean(axis=0)
    others = (candidates - common).reshape(len(candidates), -1)
    found = (image - image.mean() - (common - common.mean())).reshape(-1)
    return int(np.argmax(others @ found / np.linalg.norm(others, axis=1)))


def gradients(candidates: Floats, truth: Truth) -> Floats:
    """(n, weights + 1) what each candidate alone would send at zero weights, in clip norms."""
    rows = np.concatenate([candidates.reshape(len(candidates), -1), np.ones((len(candidates), 1))], axis=1)
    return np.asarray((truth - 0.5)[:, None] * rows / (0.5 * np.linalg.norm(rows, axis=1, keepdims=True)), dtype=np.float64)


def _arm(
    setting: Setting, images: npt.NDArray[np.uint16], truth: Truth, path: Path, *, name: str, trials: int, seed: int, bar: Bar
) -> Arm:  # fmt: skip
    candidates = images / SCALE
    own = gradients(candidates, truth)

    def releases(trial: int) -> Floats:
        target = trial % len(images)
        cohort = cohort_of(images[[target]], truth[[target]])
        secrets = [secret(seed=seed, audit="inversion", trial=trial, round=number) for number in range(setting.steps)]
        return np.asarray(np.mean([setting.release(cohort, secret=value) for value in secrets], axis=0), dtype=np.float64)

    def trial(number: int) -> Row:
        seen = releases(number)
        return {"painted": nearest(painted(seen), candidates), "compared": int(np.argmax(own @ seen))}

    settings = {"seed": seed, "candidates": len(images), "plan": setting.plan.model_dump(mode="json")}
    rows = played(path, settings, trials, trial, bar=bar, what=f"inversion: {name}", data=(images, truth))
    targets = [number % len(images) for number in range(trials)]
    hits = {key: sum(row[key] == target for row, target in zip(rows, targets, strict=True)) for key in ("painted", "compared")}
    control, share = setting.plan.noise_multiplier == 0, hits["painted"] / trials
    shown = range(min(SHOWN, len(images)))
    return Arm(
        name=name,
        control=control,
        sound=share >= LEAST if control else share <= MOST,
        says=f"{hits['painted']} of {trials} found among {len(images)} by what was painted, {hits['compared']} by comparing gradients",
        figures={
            "found by what was painted": share,
            "its upper limit, 95 %": bounds.rate_limit(hits["painted"], trials, CONFIDENCE),
            "found by comparing gradients": hits["compared"] / trials,
            "upper limit of that, 95 %": bounds.rate_limit(hits["compared"], trials, CONFIDENCE),
            "chance": 1 / len(images),
            "noise multiplier": setting.plan.noise_multiplier,
        },
        pictures={
            "as it was": tuple(picture(candidates[number]) for number in shown),
            "as painted": tuple(picture(painted(releases(number))) for number in shown),
        },
    )
