"""Sites of any patients at all, and a coordinator's hand that asks them through Flower's messages."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fakes.orders import content_of
from fedrad_client.approval import approve
from fedrad_client.cohort.draft import new_generation, next_generation, publish
from fedrad_client.cohort.split import Part
from fedrad_client.cohort.store import Manifest, Record
from fedrad_client.site import Home, open_site
from fedrad_common.identity import SigningKey
from fedrad_common.models import initial_vector
from fedrad_common.packing import Vector, vector_hash
from fedrad_common.profiles import profile
from fedrad_common.protocol import TrainingProtocol, parse_protocol, render_protocol, replace_settings
from fedrad_common.records import Order
from fedrad_sim.one_site import asked

# isort: split
from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

SIDE = 8  # pixels


@dataclass(frozen=True)
class Patient:
    images: npt.NDArray[np.uint16]  # (n, 8, 8)
    label: int | None
    part: Part = "training"


def patients(
    count: int, *, label: int | None = None, n_images: int = 2, seed: int = 0, part: Part | None = None, unlabelled: bool = False
) -> list[Patient]:
    """Random pictures; every fifth patient validates and every other one is ill, unless told otherwise."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        images = rng.integers(0, 65536, (n_images, SIDE, SIDE)).astype(np.uint16)
        own: Part = part or ("validation" if number % 5 == 0 else "training")
        made.append(Patient(images, None if unlabelled else number % 2 if label is None else label, own))
    return made


def write_patients(directory: Path, people: Sequence[Patient]) -> None:
    """One generation, without any DICOM."""
    with new_generation(directory, height=SIDE, width=SIDE) as draft:
        entry = 0
        for number, patient in enumerate(people):
            for image in patient.images:
                record = Record(f"{number:032x}", f"2.25.{entry + 1}", patient.part, {})
                draft.add(record, image, (patient.label,), entry=entry, series=entry)
                entry += 1
        kept = draft.settle()
        manifest = Manifest(
            generation=next_generation(directory), profile="xr", profile_hash=profile("xr").hash, height=SIDE, width=SIDE, key="k",
            validation_fraction=0.2, labels=("lesion",), n_files=entry, n_images=len(kept), n_patients=len(people),
            files=draft.write_files(("lesion",)),
        )  # fmt: skip
        publish(draft, directory, manifest)


def network_protocol(content: bytes, **settings: object) -> TrainingProtocol:
    """The tiny protocol with a real, small network; `rounds__quorum=2` sets `rounds.quorum`."""
    network = {"task.kind": "classification", "model.name": "resnet", "model.options": {"channels": 8, "stages": 1}}
    return replace_settings(parse_protocol(content), network | {name.replace("__", "."): value for name, value in settings.items()})


@dataclass(frozen=True)
class Asking:
    """What a coordinator sends to one site that has approved its protocol."""

    home: Home
    key: SigningKey
    protocol: TrainingProtocol
    model: Vector

    @classmethod
    def approved(cls, home: Home, key: SigningKey, protocol: TrainingProtocol, *, declared_size: int = 60) -> "Asking":
        with open_site(home.path) as site:
            approve(site, render_protocol(protocol), declared_size=declared_size)
        return cls(home, key, protocol, initial_vector(protocol))

    def order(self, **changed: object) -> Order:
        values = {"run": "run-00000001", "epoch": 1, "round": 1, "kind": "train", "protocol": self.protocol.hash}
        return Order(**{**values, "model": vector_hash(self.model), "length": self.model.size, **changed})

    def message(self, **changed: object) -> Message:
        order = self.order(**changed)
        made = Message(content_of(asked(order, self.model, self.key, self.home.path)), dst_node_id=2, message_type=order.kind)
        made.metadata.__dict__["_message_id"] = "0" * 64
        return made

    def with_model(self, model: Vector) -> "Asking":
        return replace(self, model=model)


def sizes(message: Message) -> list[tuple[str, int]]:
    """Kind and length of every object that Flower would push for this message."""
    return sorted((type(found).__name__, len(found.deflate())) for found in get_all_nested_objects(message).values())
