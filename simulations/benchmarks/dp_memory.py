"""Peak memory of a private step, each mode in a process of its own: `python simulations/benchmarks/dp_memory.py`.

ResNet-18-GN at 64 pixels, 128 patients of one image. What the libraries take by themselves is in every figure, and named apart.
"""

import argparse
import json
import resource
import subprocess
import sys

import torch
from dp_step import NETWORKS, hooks, ours, pictures, plain  # type: ignore[import-not-found] # beside this one

from fedrad_client.privacy.batches import images_at_a_time
from fedrad_common import processes

NETWORK = "ResNet-18-GN, 64 px, B 32"
MODES = ("nothing", "plain", "ours", "ours, all at once", "hooks")


def peak(mode: str, batch: int) -> float:
    """MB of this process after three steps."""
    torch.set_num_threads(1)
    make, _, size = NETWORKS[NETWORK]
    images, targets = pictures(batch, size)
    network = make()
    if mode.startswith("ours"):
        processes.keep_memory()  # as in a site's training child
    each = batch if "all" in mode else images_at_a_time(256, expected_batch=float(batch), views=1, device="cpu")
    steps = {
        "plain": lambda: plain(network, images, targets, channels_last=False),
        "ours": lambda: ours(network, images, targets, each=each),
        "ours, all at once": lambda: ours(network, images, targets, each=each),
        "hooks": lambda: hooks(network, images, targets),
    }
    if mode in steps:
        step = steps[mode]()
        for _ in range(3):
            step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--mode", choices=MODES, help="only this one, in this process")
    options = parser.parse_args()
    if options.mode:
        print(peak(options.mode, options.batch))
        return
    command = [sys.executable, __file__, "--batch", str(options.batch), "--mode"]
    found = {mode: float(subprocess.run([*command, mode], check=True, capture_output=True, text=True).stdout) for mode in MODES}
    print(json.dumps({mode: f"{size:.0f} MB" for mode, size in found.items()}))
    print(f"ours ÷ hooks {found['ours'] / found['hooks']:.3f}; without what the libraries take ", end="")
    print(f"{(found['ours'] - found['nothing']) / (found['hooks'] - found['nothing']):.3f}")


if __name__ == "__main__":
    main()
