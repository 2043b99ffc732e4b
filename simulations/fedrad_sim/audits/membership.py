"""Was this image in the training? Asked of released models by the strongest known attack of few reference models: RMIA.

Zarifzadeh, Liu and Shokri (2024): an image is likely a member where the model is surer of its label than models in general are, of which
half were trained with it. Their comparison with a population is the same for all images here and so changes no rank. Every model is
attacked in turn; its references are the others, but never the one that was trained on its very complement.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats

from fedrad_common.protocol import TrainingProtocol, load_protocol, replace_settings
from fedrad_sim.audits import bounds
from fedrad_sim.audits.claim_curve import Claim, claim_of
from fedrad_sim.audits.defaults import CLAIM, MODELS
from fedrad_sim.audits.finding import CERTAINTY, CONFIDENCE, Arm, Finding, of_control, of_defended
from fedrad_sim.audits.halves import Collection, halves, load_collection, logits, plan_for, trained
from fedrad_sim.audits.journal import SILENT, Bar, Row, played
from fedrad_sim.scenario import data_path, find_scenario, load_scenario, protocol_path

Floats = npt.NDArray[np.float64]
Members = npt.NDArray[np.bool_]
FEW = 800  # images of the control, for a network of this size knows half of them by heart
TEMPERATURE = 5.0  # of the probabilities: chosen on the control
MOST, LEAST = 0.55, 0.65  # areas: of the whole training set with privacy, the upper limit at the default size; of the control, at least
PLAIN: dict[str, object] = {
    "privacy.unit": "none", "privacy.epsilon": None, "privacy.expected_batch": 64.0, "privacy.steps_per_round": 500, "privacy.rounds": 1,
    "training.optimizer": "adamw", "training.learning_rate": 2e-3, "training.schedule": "constant",
    "aggregation.momentum": 0.0, "aggregation.ema": 0.0,
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """One arm: its protocol, and how many of the images its models share."""

    name: str
    protocol: TrainingProtocol
    images: int | None
    control: bool = False
    most: float = math.inf  # the bar: the area's upper limit, besides what the claim permits


def audit(out: Path, *, epsilon: float, models: int, images: int | None, seed: int, bar: Bar = SILENT) -> Finding:
    """Train `models` models an arm; those that `out` holds already are kept.

    Args:
        models: even, at least 4.
        images: at most so many of the training arrays, for a quick look; None is all.
    """
    start, path = time.monotonic(), find_scenario("pneumonia")
    scenario = load_scenario(path)
    assert scenario.imported is not None
    arrays = data_path(scenario.imported.arrays, path)
    protocol = load_protocol(protocol_path(scenario, path))
    private = replace_settings(protocol, {"privacy.epsilon": epsilon, "rounds.quorum": 1, "evaluation.rounds": []})
    few = min(FEW, images or FEW)
    worlds = (
        World("with privacy", private, images, most=MOST if images is None and models >= MODELS and epsilon <= CLAIM else math.inf),
        World("with privacy, few images", private, few),
        World("without privacy, few images", replace_settings(private, PLAIN), few, control=True),
    )
    collections = [load_collection(arrays, most=world.images) for world in worlds]
    arms = [
        _arm(world, private, collection, out / "membership", models=models, seed=seed, bar=bar)
        for world, collection in zip(worlds, collections, strict=True)
    ]
    delta = plan_for(private, size=len(collections[0].truth) // 2).delta
    return Finding(
        audit="membership", epsilon=epsilon, delta=delta, unit="image", arms=tuple(arms), seconds=time.monotonic() - start,
        settings={"models an arm": models, "temperature": TEMPERATURE, "seed": seed},
    )  # fmt: skip


def scores(sure: Floats, member: Members) -> Floats:
    """(models, images) logarithm of RMIA's ratio: how sure a model is of the right label, over how sure its references are on average.

    Args:
        sure: (models, images) logit of the right label.
        member: (models, images); 2k and 2k + 1 are each other's complement.
    """
    likely = -np.logaddexp(0, -sure / TEMPERATURE)
    rows = []
    for target in range(len(sure)):
        references = [model for model in range(len(sure)) if model // 2 != target // 2]
        inside = member[references]
        assert (inside.sum(axis=0) == len(references) // 2).all()
        rows.append(likely[target] - np.log(np.exp(likely[references]).mean(axis=0)))
    return np.array(rows)


def _arm(world: World, private: TrainingProtocol, collection: Collection, folder: Path, *, models: int, seed: int, bar: Bar) -> Arm:
    n = len(collection.truth)
    member, name = halves(n, models, seed=seed), world.name.replace(", ", "-").replace(" ", "-")
    plan, claimed = plan_for(world.protocol, size=n // 2), plan_for(private, size=n // 2)

    def model(number: int) -> Row:
        cohort, chosen = folder / f"{name}-{number}", member[number]
        vector = trained(collection, chosen, cohort, protocol=world.protocol, plan=plan, seed=f"membership {seed} {number}")
        values = logits(world.protocol, vector, collection.pixels)
        return {"sure": np.where(collection.truth == 1, values, -values).round(6).tolist()}

    settings = {"seed": seed, "images": n, "plan": plan.model_dump(mode="json")}
    data = (collection.pixels, collection.truth)
    rows = played(folder / f"{name}.jsonl", settings, models, model, bar=bar, what=f"membership: models {world.name}", data=data)
    sure = np.array([row["sure"] for row in rows], dtype=np.float64)
    permitted = claim_of(claimed, steps=private.privacy.steps)
    return judge(scores(sure, member), member, world, permitted=permitted, delta=claimed.delta, sure=sure)


def judge(found: Floats, member: Members, world: World, *, permitted: Claim, delta: float, sure: Floats) -> Arm:
    area, error = bounds.area(found, member)
    upper = area + float(stats.norm.ppf(CONFIDENCE)) * error
    proven = area - float(stats.norm.ppf(CERTAINTY)) * error
    broken, most = proven > permitted.area, permitted.area
    defended = of_defended(above_claim=broken, above_bar=upper > world.most)
    alarms, hits = bounds.curve(found[~member], found[member])
    axis = np.concatenate([[0.0], np.logspace(-3, 0, 60)])
    drawn = {"claim alarms": tuple(axis.round(6).tolist()), "claim hits": tuple(permitted.swapped(axis).round(5).tolist())}
    held = f"; the claim permits {most:.3f}" if not world.control else f"; the claim, were it kept, would permit {most:.3f}"
    return Arm(
        name=world.name,
        control=world.control,
        verdict=of_control(area >= LEAST) if world.control else defended,
        says=f"area under the attack's ROC curve {area:.3f}, at most {upper:.3f} with 95 % confidence{held}",
        figures={
            "area": area,
            "area, upper limit, 95 %": upper,
            "area, lower limit, 99.9 %": proven,
            "greatest area permitted": most,
            "found at 1 % false alarms": bounds.found_at(found, member, 0.01),
            "permitted at 1 % false alarms": float(permitted.swapped(np.array([0.01]))[0]),
            "found at 0.1 % false alarms": bounds.found_at(found, member, 0.001),
            "permitted at 0.1 % false alarms": float(permitted.swapped(np.array([0.001]))[0]),
            "delta": delta,
            "members of a model": float(member[0].sum()),
            "others": float((~member[0]).sum()),
            "right on members": float((sure[member] > 0).mean()),
            "right on others": float((sure[~member] > 0).mean()),
        },
        drawn={"alarms": tuple(alarms), "hits": tuple(hits), **({} if world.control else drawn)},
    )
