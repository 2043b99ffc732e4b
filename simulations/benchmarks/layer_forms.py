"""Both forms of every layer's gradients, and how much the choice between them loses: `python simulations/benchmarks/layer_forms.py`.

Norm and weighted sum of one micro-batch, on random maps of the shapes that each layer of a network really sees; best of five.
The choice (`gradients/forms.py`) follows from shapes alone; this is what its prices were fitted to.
"""

import argparse
import contextlib
import json
import time
import unittest.mock
from collections.abc import Callable

import torch
from dp_step import NETWORKS  # type: ignore[import-not-found] # beside this one
from torch import Tensor, nn

from fedrad_client.privacy.gradients import rules
from fedrad_client.privacy.gradients.parts import Owners, Products
from fedrad_common import processes

Shapes = tuple[tuple[int, ...], tuple[int, ...]]


def seen(network: nn.Module, images: Tensor) -> dict[tuple[str, Shapes], tuple[nn.Module, int]]:
    """Layers by kind and the shapes in and out, and how often there is one like it."""
    found: dict[tuple[str, Shapes], tuple[nn.Module, int]] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        key = (str(layer), (tuple(inputs[0].shape), tuple(output.shape)))
        found[key] = (layer, found.get(key, (layer, 0))[1] + 1)

    layers = [layer for layer in network.modules() if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear)]
    handles = [layer.register_forward_hook(note) for layer in layers]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    return found


def best(work: Callable[[], None], repeats: int = 5) -> float:
    """Milliseconds."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1e3 * min(times)


def cost(layer: nn.Module, shapes: Shapes, *, products: bool | None) -> tuple[float, bool]:
    """Of one form, or of the one that is chosen; and which it was."""
    activation, backprop = (torch.randn(shape) for shape in shapes)
    owners, factors = Owners(torch.arange(len(activation)), 1), torch.rand(len(activation), dtype=torch.float64)
    (weight,) = (parameter for name, parameter in layer.named_parameters() if name == "weight")
    out, kinds = torch.empty(weight.numel(), dtype=torch.float64), []

    def work() -> None:
        part = rules.parts_of(layer, activation, backprop, owners)[weight]
        _ = part.squares
        part.weighted(factors, out=out)
        kinds.append(isinstance(part, Products))

    with contextlib.ExitStack() as forced, torch.no_grad():
        if products is not None:
            for place in ("convolutions", "rules"):
                name = f"fedrad_client.privacy.gradients.{place}.as_products"
                forced.enter_context(unittest.mock.patch(name, return_value=products))
        return best(work), kinds[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", help="networks whose name holds this")
    parser.add_argument("--all", action="store_true", help="also the layers whose choice is within a tenth of the best")
    options = parser.parse_args()
    processes.keep_memory()
    torch.set_num_threads(options.threads)
    for name, (make, batch, size) in NETWORKS.items():
        if options.only and options.only not in name:
            continue
        total = {"chosen": 0.0, "best": 0.0, "formed": 0.0, "products": 0.0}
        for (kind, shapes), (layer, count) in seen(make(), torch.rand(batch, 1, *size)).items():
            columns = shapes[1][2:] or (1,)
            formed, _ = cost(layer, shapes, products=False)
            products = cost(layer, shapes, products=True)[0] if torch.Size(columns).numel() <= 1024 else float("inf")
            _, is_products = cost(layer, shapes, products=None)
            chosen = products if is_products else formed
            for key, value in zip(total, (chosen, min(formed, products), formed, products), strict=True):
                total[key] += count * value
            if options.all or chosen > 1.1 * min(formed, products):
                row = {"layer": kind, "times": count, "in": shapes[0], "formed": round(formed, 2), "products": round(products, 2)}
                print(json.dumps(row | {"chosen": "products" if is_products else "formed"}), flush=True)
        ms = {key: round(value, 1) for key, value in total.items()}
        print(json.dumps({"network": name, "ms": ms, "chosen ÷ best": round(ms["chosen"] / ms["best"], 3)}, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
