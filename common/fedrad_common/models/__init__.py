"""Networks by name, the same at every site to the last bit. A new one is one class and one line here, or an entry point `fedrad.models`.

A network is called with `n_outputs`, `height`, `width` and the protocol's options; it maps (n, 1, H, W) float32 in [0, 1] to
(n, n_outputs) logits. Its parameters are all that it learns: a buffer would carry raw statistics past the noise, and a layer that mixes
images of a batch would make one patient's gradient depend on another's, so both are refused.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from typing import TYPE_CHECKING

from fedrad_common.canonical import canonical_json
from fedrad_common.errors import ConfigError
from fedrad_common.protocol import Lineage, Model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from fedrad_common.packing import Vector
    from fedrad_common.protocol import TrainingProtocol

ENTRY_POINTS = "fedrad.models"

# name -> "module:class"; loaded when built, so that listing names never imports torch
MODELS: dict[str, str] = {
    "densenet121": "fedrad_common.models.densenet:DenseNet121",
    "resnet": "fedrad_common.models.resnet:ResNet",
    "resnet18": "fedrad_common.models.resnet18:ResNet18",
    "scatter-resnet": "fedrad_common.models.scattering:ScatterResNet",
    "unet": "fedrad_common.models.unet:UNet",
}


def model_names() -> tuple[str, ...]:
    return tuple(sorted({*MODELS, *_entry_points()}))


def build(model: Model, *, n_outputs: int, height: int, width: int, backbone: Vector | None = None) -> nn.Module:
    """The named network with its initial weights, a function of `model.seed` alone; on the CPU, float32, in evaluation-neutral shape.

    Args:
        backbone: where only a part is trained and the rest is public, the packed weights of the whole network (`weights.backbone`).

    Raises:
        ConfigError: unknown name or option, or a network that may not be trained here (the layer is named); the backbone is wanted.
    """
    import torch

    from fedrad_common.packing import unpack

    if (backbone is not None) != (model.trains != "all" and model.initial.kind == "public"):
        what = "without" if backbone is None else "with"
        raise ConfigError(
            f"model.trains is {model.trains!r}, and the network is made {what} public weights that stay as they are",
            hint="fetch the file that model.initial names, and bring it: fedrad-site weights",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.seed)
        network = _construct(model, n_outputs, height, width)
        if model.trains != "all":
            if backbone is not None:
                unpack(network, backbone)
            network = _partial(network, model, height, width)
            _refuse_state(network, model.name)
    return network


def outline(model: Model, *, n_outputs: int, height: int, width: int) -> nn.Module:
    """`build`, with the seed's weights where it wants public ones: to count weights and to look at gradients, never to be trained."""
    return build(model.model_copy(update={"initial": Lineage()}), n_outputs=n_outputs, height=height, width=width)


def whole_of(model: Model) -> Model:
    """The same network, all of which is trained, as the seed draws it."""
    return model.model_copy(update={"trains": "all", "rank": None, "initial": Lineage()})


def initial_vector(protocol: TrainingProtocol) -> Vector:
    """The packed weights that the seed gives; without torch for the `echo` task, whose vector is `options.length` zeros.

    A run whose protocol names others starts from those: this one is as long.
    """
    if protocol.task.kind == "echo":
        import numpy as np

        return np.zeros(int(protocol.model.options.get("length", 25_000)), dtype=np.float32)
    from fedrad_common.packing import pack
    from fedrad_common.tasks import task

    n_outputs = task(protocol.task.kind).n_outputs(protocol.task.labels)
    return pack(outline(protocol.model, n_outputs=n_outputs, height=protocol.input.height, width=protocol.input.width))


def whole_size(protocol: TrainingProtocol) -> int:
    """How many weights the network has in all, also where only a part of it is trained and sent."""
    return initial_vector(protocol.model_copy(update={"model": whole_of(protocol.model)})).size


def _entry_points() -> dict[str, str]:
    from importlib.metadata import entry_points

    return {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}


def _constructor(name: str) -> Callable[..., nn.Module]:
    place = MODELS.get(name) or _entry_points().get(name)
    if place is None:
        raise ConfigError(f"model.name: {name!r} is not known", hint=f"known models: {', '.join(model_names())}")
    module, _, attribute = place.partition(":")
    constructor: Callable[..., nn.Module] = getattr(importlib.import_module(module), attribute)
    return constructor


def _construct(model: Model, n_outputs: int, height: int, width: int) -> nn.Module:
    construct = _constructor(model.name)
    try:
        network = construct(n_outputs=n_outputs, height=height, width=width, **model.options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.options: {model.name}: {error}", hint="the options are the keyword arguments of the class") from None
    _refuse_state(network, model.name)
    _refuse_mixing(canonical_json(whole_of(model).model_dump(mode="json")), n_outputs, height, width)
    return network


def _partial(network: nn.Module, model: Model, height: int, width: int) -> nn.Module:
    """Raises ConfigError: no part of that kind can be told from the rest of this network."""
    import torch

    from fedrad_common.models.partial import partial

    image = torch.linspace(0, 1, height * width).view(1, 1, height, width)
    what, hint = f"model {model.name}: trains {model.trains!r}", 'another network, or trains = "all"'
    with torch.no_grad(), _spread_head(network):
        whole = network(image)  # what fails here is no matter of the part
    try:
        with torch.no_grad(), _spread_head(network):
            part = partial(network, model)
            same = torch.allclose(part(image), whole, rtol=1e-4, atol=1e-5)
    except ValueError as error:
        raise ConfigError(f"{what}: {error}", hint=hint) from None
    except RuntimeError:  # what comes after the head wants its maps
        same = False
    except (TypeError, AttributeError) as error:  # a layer of two inputs, or one whose weights are looked at from outside
        calls = "it must call each layer with one tensor, and look at none of its weights"
        raise ConfigError(f"{what}: {calls} ({type(error).__name__}: {error})", hint=hint) from None
    if not same:
        raise ConfigError(f"{what}: its head is not its last step", hint=hint)
    return part


@contextlib.contextmanager
def _spread_head(network: nn.Module) -> Iterator[None]:
    """Other weights in the head for the block: of one that begins at zero nobody could see what comes after it."""
    import torch

    head: nn.Module | None = getattr(network, "head", None)
    weights, generator = list(head.parameters()) if head is not None else [], torch.Generator().manual_seed(0)
    before = [weight.clone() for weight in weights]
    for weight in weights:
        weight.add_(torch.randn(weight.shape, generator=generator))
    try:
        yield
    finally:
        for weight, own in zip(weights, before, strict=True):
            weight.copy_(own)


def _refuse_state(network: nn.Module, name: str) -> None:
    from torch.nn.modules.batchnorm import _BatchNorm

    for layer, module in network.named_modules():
        if isinstance(module, _BatchNorm):
            raise ConfigError(f"model {name}: layer {layer or '(root)'}: mixes the images of a batch", hint="use GroupNorm")
    for buffer, _ in network.named_buffers():
        raise ConfigError(f"model {name}: buffer {buffer}: would leave the site without noise", hint="keep constants outside of buffers")
    owners: dict[int, str] = {}
    for parameter, tensor in network.named_parameters(remove_duplicate=False):
        first = owners.setdefault(id(tensor), parameter)
        if first != parameter:
            raise ConfigError(f"model {name}: weight {parameter} is {first} again", hint="tied weights have no gradient per patient here")
        if not tensor.requires_grad:
            raise ConfigError(f"model {name}: weight {parameter} is not trained", hint="keep constants outside of parameters")


@functools.lru_cache(maxsize=64)
def _refuse_mixing(model: bytes, n_outputs: int, height: int, width: int) -> None:
    """One image's output must not move with another's pixels, and must have the promised shape."""
    import torch

    parsed = Model.model_validate_json(model)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((2, 1, height, width), generator=generator, requires_grad=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = _constructor(parsed.name)(n_outputs=n_outputs, height=height, width=width, **parsed.options)
        with torch.no_grad():  # a zero-initialised layer would hide what lies before it
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        outputs = network(images)
    if outputs.shape != (2, n_outputs):
        raise ConfigError(f"model {parsed.name}: output is {tuple(outputs.shape)} for 2 images, expected (2, {n_outputs})")
    (gradient,) = torch.autograd.grad(outputs[0].sum(), images)
    if bool((gradient[1] != 0).any()):
        raise ConfigError(f"model {parsed.name}: the output for one image depends on another image of the batch", hint="use GroupNorm")
