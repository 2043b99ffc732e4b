"""Why a picture waits for a person: shown to nobody else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fedrad_client.intake.burnin.boxes import Box
from fedrad_client.intake.burnin.gate import Verdict
from fedrad_client.intake.burnin.picture import png_of
from fedrad_client.intake.burnin.queue import Waiting
from fedrad_client.intake.codes import Code
from fedrad_client.intake.pixels.array import Array


@dataclass(frozen=True)
class Suspicion:
    """What a reviewer needs to see of one file."""

    device: str
    shape: tuple[int, int]
    frame: int  # from 0
    boxes: tuple[Box, ...]
    picture: bytes = field(repr=False)  # PNG

    @staticmethod
    def of(verdict: Verdict, frames: Array, device: str) -> Suspicion | None:
        """Of one file's (N, H, W) stored values; None where nobody need look at it."""
        if verdict.code in (None, "rejected"):
            return None
        shown = frames[verdict.frame]
        return Suspicion(device, (shown.shape[0], shown.shape[1]), verdict.frame, verdict.boxes, png_of(shown, verdict.boxes))

    def head(self) -> dict[str, Any]:
        """All but the picture, for JSON."""
        return {"device": self.device, "shape": self.shape, "frame": self.frame, "boxes": self.boxes}

    @staticmethod
    def read(head: dict[str, Any], picture: bytes) -> Suspicion:
        """What `head` gave. Raises KeyError, TypeError or ValueError."""
        height, width = map(int, head["shape"])
        return Suspicion(
            str(head["device"]), (height, width), int(head["frame"]), tuple(Box(*map(int, box)) for box in head["boxes"]), picture
        )

    def waiting(self, *, content: str, code: Code, patient: str) -> Waiting:
        """Args: content: SHA-256 of the file. patient: pseudonym."""
        rows, columns = self.shape
        return Waiting(
            content=content, code=code, device=self.device, patient=patient, rows=rows, columns=columns, frame=self.frame, boxes=self.boxes
        )
