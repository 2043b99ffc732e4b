"""The yardstick: five hospitals of unlike prevalence, scored once a seed on a split that tuning never touched.

`python simulations/benchmarks/pneumonia.py --seeds 1 2 3`. Tuning used 20 % of the training split (docs/benchmarks.md names the trials);
the arms train on four fifths of it, because each hospital keeps its own validation patients.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from fedrad_sim.evaluate import evaluate
from fedrad_sim.scenario import data_path, find_scenario
from fedrad_sim.simulate import run

ARRAYS = "pneumonia_cxr/pneumonia_cxr_28.npz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epsilon", type=float, nargs="+", default=[8.0, 3.0])
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    arrays = data_path(ARRAYS, find_scenario("pneumonia"))
    found: dict[str, list[float]] = {}
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory(prefix="fedrad-pneumonia-") as scratch:
            start = time.monotonic()
            result = run(
                "pneumonia", Path(scratch) / "out", seed=seed, settings={"privacy.epsilon": arguments.epsilon}, jobs=arguments.jobs
            )
            for arm in result.arms:
                epsilon = f" epsilon {arm.job.settings['privacy.epsilon']:g}" if arm.job.private else ""
                name = f"{arm.job.kind}{epsilon or ' without privacy'}"
                score = evaluate(arm.job.run, arrays, image="val_images", label="val_labels")
                assert score.auc is not None
                assert score.auc_ci is not None
                found.setdefault(name, []).append(score.auc)
                low, high = score.auc_ci
                print(
                    f"seed {seed}  {name:<28} AUC {score.auc:.4f} ({low:.4f} … {high:.4f})  n {score.n}  Brier {score.brier:.4f}",
                    flush=True,
                )
            print(f"seed {seed}  {time.monotonic() - start:.0f} s", flush=True)
    for name, values in found.items():
        print(f"median  {name:<28} AUC {statistics.median(values):.4f}  ({min(values):.4f} … {max(values):.4f}, {len(values)} seeds)")


if __name__ == "__main__":
    main()
