"""May a network and its loss be trained here? Tried out on random images, before anybody approves a protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from fedrad_client.privacy.gradients.precision import full_precision, network_precision
from fedrad_client.privacy.gradients.recording import recording
from fedrad_client.privacy.gradients.rules import uncovered
from fedrad_client.work.scoring import features_of, fixed_front
from fedrad_client.work.tensors import choose_device
from fedrad_common.errors import ConfigError, FedradError
from fedrad_common.models import outline
from fedrad_common.profiles import SCALE
from fedrad_common.tasks import task

if TYPE_CHECKING:
    from fedrad_common.protocol import TrainingProtocol

_AGAIN = 4  # times more, the same images
_IMAGES = 3  # the last of them without any label
_KEPT, _MOVES = 40, (1, 7, 16, 39)  # images of which features are kept: more than two batches, the last of them filled up
_ERROR = 1e-9  # relative, in float64: of a sum that is made in another order
_SAME_BITS: set[tuple[str, int, int, str]] = set()  # what this process has looked at: protocol, images, views, device
_SPREAD = 0.1  # of what is added to the first weights: a layer that starts at zero would hide what lies before it


def check_network(protocol: TrainingProtocol) -> tuple[str, ...]:
    """An image's loss and gradient in a batch must be those of the image alone, in float64; a guarantee for a patient rests on that.

    Returns:
        what a person should know of it: layers that cost more than others.

    Raises:
        ConfigError: they are not, or nothing can tell one image's gradient from another's; also whatever `build` refuses: batch
            normalisation, buffers, tied and frozen weights.
    """
    if protocol.task.kind == "echo":
        return ()  # nothing is learned
    kind = task(protocol.task.kind)
    size = protocol.input.height, protocol.input.width
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((_IMAGES, 1, *size), generator=generator)
    targets = torch.tensor([1.0, 0.0, torch.nan], dtype=torch.float64)[:, None].expand(-1, len(protocol.task.labels))
    with torch.random.fork_rng(devices=[]):  # for a layer that draws at random, which is refused
        try:
            network = outline(protocol.model, n_outputs=kind.n_outputs(protocol.task.labels), height=size[0], width=size[1])
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=_SPREAD)
            forward, inputs = _in_float64(network, images)
            _compare(network, lambda rows: kind.loss(forward(inputs[rows]), targets[rows]), name=protocol.model.name)
        except FedradError:
            raise
        except Exception as error:  # a hospital may register networks of its own, of which nothing is known
            raise ConfigError(
                f"model {protocol.model.name}: one image's gradient cannot be told from another's ({type(error).__name__})",
                hint="every layer with weights takes one tensor and gives one, whose first dimension is the image; nothing in place",
            ) from None
    return tuple(
        f"model {protocol.model.name}: layer {layer} has no rule here: its gradients come from Opacus, several times as slow"
        for layer in uncovered(network)
    )


def check_places(protocol: TrainingProtocol, *, images: int, views: int, device: str) -> None:
    """In the very shape that is trained, an image's loss and gradient must have the same bits in every place of the batch.

    One patient more moves the others by a place. Where last bits differ with it, weights chosen by an adversary turn one of them into a
    whole clipped gradient: that patient would change the sum by many times the bound (privacy.md, rule 7).

    Raises:
        ConfigError: they differ, on this device.
    """
    question = (protocol.hash, images, views, device)
    if question in _SAME_BITS:
        return
    kind, size = task(protocol.task.kind), (protocol.input.height, protocol.input.width)
    place, generator = choose_device(device), torch.Generator().manual_seed(0)
    pictures = torch.rand((images, 1, *size), generator=generator).repeat_interleave(views, dim=0)
    targets = (torch.rand((images, len(protocol.task.labels)), generator=generator) < 0.5).float().repeat_interleave(views, dim=0)
    network = outline(protocol.model, n_outputs=kind.n_outputs(protocol.task.labels), height=size[0], width=size[1])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=_SPREAD)
    _check_features(network, size, name=protocol.model.name)
    network.train().to(place)

    def bits(moved: int) -> list[Tensor]:
        rows = (pictures.roll(moved * views, 0).to(place), targets.roll(moved * views, 0).to(place))
        with recording(network) as kept:
            with network_precision(place, protocol.training.precision):
                outputs = network(rows[0])
            losses = kind.loss(outputs.float(), rows[1])
            gradients = kept.per_patient(losses, owner=torch.arange(images, device=place), views=views)
        each = [losses.detach().reshape(images, views), *(gradients[parameter] for parameter in gradients)]
        return [part.roll(-moved, 0) for part in each]

    with full_precision(place):
        here = bits(0)
        for moved in {1, images // 2, images - 1}:
            if not all(torch.equal(one, other) for one, other in zip(here, bits(moved), strict=True)):
                raise ConfigError(
                    f"model {protocol.model.name}: on this device the last bits of an image's gradient differ with its place in the batch",
                    hint='then no clip holds: choose another network, or device = "cpu" in site.toml',
                )
    _SAME_BITS.add(question)


def _check_features(network: nn.Module, size: tuple[int, int], *, name: str) -> None:
    """Features that are kept are made otherwise than what is trained on them: so many at a time, on the CPU, in one order of the cohort."""
    front = fixed_front(network)
    if front is None:
        return
    pixels = np.random.default_rng(0).integers(0, SCALE + 1, (_KEPT, *size)).astype(np.uint16)
    here = features_of(pixels, front)
    for moved in _MOVES:
        if not torch.equal(here, features_of(np.roll(pixels, moved, axis=0), front).roll(-moved, 0)):
            raise ConfigError(
                f"model {name}: on this machine the last bits of an image's features differ with its place among the images",
                hint="then no clip holds: choose another network",
            )


def _in_float64(network: nn.Module, images: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The trained part and what it sees. A fixed front, `features`, stays in float32, in which its constants are."""
    if not hasattr(network, "from_features"):
        return network.double(), images.double()
    features = network.features(images)  # type: ignore[operator]
    if features.requires_grad:
        raise ConfigError("model: its fixed front depends on weights", hint="what `features` computes is computed once and never trained")
    return cast("Callable[[Tensor], Tensor]", network.double().from_features), features.double()


def _compare(network: nn.Module, losses: Callable[[slice], Tensor], *, name: str) -> None:
    with recording(network) as kept:
        together = losses(slice(None))
        if together.shape != (_IMAGES,):
            raise ConfigError(f"task: the loss of {_IMAGES} images has the shape {tuple(together.shape)}, expected ({_IMAGES},)")
        gradients = kept.per_patient(together, owner=torch.arange(_IMAGES))
    if float(together[-1].detach()) != 0:
        raise ConfigError("task: the loss of an image without any label is not 0", hint="it must not move the model")
    alone = [losses(slice(image, image + 1)) for image in range(_IMAGES)]
    with torch.no_grad():  # a layer that draws at random may draw the same once
        again = [losses(slice(None)) for _ in range(_AGAIN)]
    if not all(torch.allclose(each, together, rtol=_ERROR, atol=_ERROR) for each in (torch.cat(alone), *again)):
        raise ConfigError(
            f"model {name}: the loss of one image depends on who else is in the batch, or on chance",
            hint="no loss with a term over the batch, no layer that mixes images or draws at random",
        )
    for image, loss in enumerate(alone):
        expected = torch.autograd.grad(loss.sum(), list(network.parameters()), allow_unused=True)
        for (weight, parameter), each in zip(network.named_parameters(), expected, strict=True):
            found = gradients[parameter][image] if parameter in gradients else torch.zeros_like(parameter)
            wanted = torch.zeros_like(parameter) if each is None else each
            if not torch.allclose(found, wanted, rtol=_ERROR, atol=_ERROR * (1 + float(wanted.abs().max()))):
                raise ConfigError(
                    f"model {name}: weight {weight}: an image's gradient in a batch is not that of the image alone",
                    hint="use each layer with weights by calling it, and change nothing in place",
                )
