"""The yardstick: five hospitals of unlike prevalence, scored once a seed on a split that tuning never touched.

`python simulations/benchmarks/pneumonia.py --seeds 1 2 3 --epsilon 8 3 1`. Tuning used 20 % of the training split (docs/benchmarks.md
names the trials); the arms train on four fifths of it, because each hospital keeps its own validation patients.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import get_args

from fedrad_sim.evaluate import evaluate
from fedrad_sim.scenario import ArmName, data_path, find_scenario
from fedrad_sim.simulate import run

ARRAYS = "pneumonia_cxr/pneumonia_cxr_28.npz"
BARS = {8.0: (0.95, 0.965), 3.0: (0.93, 0.95), 1.0: (0.88, 0.92)}  # bar and aim of the AUC, by epsilon


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epsilon", type=float, nargs="+", default=[8.0, 3.0, 1.0])
    parser.add_argument("--arms", nargs="+", choices=get_args(ArmName), help="instead of the scenario's")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    arrays = data_path(ARRAYS, find_scenario("pneumonia"))
    settings = {"privacy.epsilon": arguments.epsilon}
    found: dict[str, list[float]] = {}
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory(prefix="fedrad-pneumonia-") as scratch:
            start = time.monotonic()
            result = run("pneumonia", Path(scratch) / "out", seed=seed, settings=settings, arms=arguments.arms, jobs=arguments.jobs)
            for arm in result.arms:
                epsilon = f" epsilon {arm.job.settings['privacy.epsilon']:g}" if arm.job.private else ""
                name = f"{arm.job.kind}{epsilon or ' without privacy'}"
                score = evaluate(arm.job.run, arrays, image="val_images", label="val_labels")
                assert score.auc is not None
                assert score.auc_ci is not None
                found.setdefault(name, []).append(score.auc)
                low, high = score.auc_ci
                counted = f"n {score.n}  Brier {score.brier:.4f}  {arm.seconds:.0f} s"
                print(f"seed {seed}  {name:<28} AUC {score.auc:.4f} ({low:.4f} … {high:.4f})  {counted}", flush=True)
            print(f"seed {seed}  {time.monotonic() - start:.0f} s", flush=True)
    for name, values in found.items():
        spread = f"({min(values):.4f} … {max(values):.4f}, {len(values)} seeds)"
        print(f"median  {name:<28} AUC {statistics.median(values):.4f}  {spread}{_bar(name)}")


def _bar(name: str) -> str:
    asked = [bars for epsilon, bars in BARS.items() if name == f"federated epsilon {epsilon:g}"]
    return f"  bar {asked[0][0]:g}, aim {asked[0][1]:g}" if asked else ""


if __name__ == "__main__":
    main()
