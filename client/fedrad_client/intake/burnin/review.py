"""`fedrad-site review`: a person looks at what the gate held back, and says what becomes of it, and of all that is like it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrad_client import audit
from fedrad_client.intake.burnin import queue
from fedrad_client.intake.burnin.boxes import Box, merged
from fedrad_client.intake.burnin.queue import Waiting
from fedrad_client.intake.burnin.rules import BurnRules, Decision, DeviceRule, FileVerdict, read_rules, write_rules
from fedrad_client.site import AUDIT, Home
from fedrad_common.chain import Chain
from fedrad_common.errors import MisuseError


@dataclass(frozen=True)
class Decided:
    """What one verdict did."""

    verdict: Decision
    pictures: int
    devices: int  # for which it is a rule from now on
    left: int  # pictures that still wait

    def lines(self) -> list[str]:
        words = {"release": "released", "mask": "masked", "reject": "rejected"}[self.verdict]
        rule = f"; a rule for {self.devices} {'device' if self.devices == 1 else 'devices'} from now on" if self.devices else ""
        then = "nothing waits any more" if not self.left else f"{self.left} still wait"
        return [f"{words}: {self.pictures} {'picture' if self.pictures == 1 else 'pictures'}{rule}; {then}", "  next  fedrad-site ingest"]


def decide(
    home: Home, ids: Sequence[str], verdict: Decision, *, boxes: Sequence[Box] = (), like: bool = False, rule: bool = False
) -> Decided:
    """Note a verdict for pictures that wait. It counts with the next ingest.

    Args:
        ids: beginnings of their names.
        boxes: what to blank, in pixels of the picture; none: what was found.
        like: also those of the same device and size whose text lies within.
        rule: from now on for all of the same device and size.

    Raises:
        MisuseError: no such picture, a box that is none, or a rule that no verdict can make.
        BusyError: an answer is being made. DiskError: nothing was decided, or all of it; the same again is right.
    """
    if boxes and verdict != "mask":
        raise MisuseError("--box: only masks have boxes", hint="say --mask as well")
    if rule and verdict == "reject":
        raise MisuseError("--rule: nothing is rejected by rule", hint="leave the device's pictures out of the export")
    waiting = queue.entries(home.path)
    chosen = _chosen(waiting, ids)
    if like:
        chosen = list({one.content: one for one in (*chosen, *_like(waiting, chosen, boxes))}.values())
    if any(not _fits(box, one) for box in boxes for one in chosen):
        raise MisuseError("--box: lies outside a picture", hint="TOP,LEFT,BOTTOM,RIGHT in pixels of the picture")
    rules, devices = _ruled(read_rules(home.path), chosen, verdict, boxes, rule=rule)
    with Chain.open(home.path / AUDIT, audit.KIND) as log:
        write_rules(home.path, rules)
        audit.record(log, "review", verdict=verdict, pictures=len(chosen), devices=devices)
    queue.remove(home.path, [one.content for one in chosen])
    return Decided(verdict, len(chosen), devices, len(waiting) - len(chosen))


def _chosen(waiting: Sequence[Waiting], ids: Sequence[str]) -> list[Waiting]:
    found: dict[str, Waiting] = {}
    for number, name in enumerate(ids, start=1):
        fitting = [one for one in waiting if one.content.startswith(name.lower())] if len(name) >= 4 else []
        if len(fitting) != 1:
            what = "fits several pictures" if fitting else "is no picture that waits"
            raise MisuseError(f"review: id {number} {what}", hint="`fedrad-site review` lists them; type as many letters as it shows")
        found[fitting[0].content] = fitting[0]
    return list(found.values())


def _like(waiting: Sequence[Waiting], chosen: Sequence[Waiting], boxes: Sequence[Box]) -> list[Waiting]:
    areas = {(one.device, one.rows, one.columns): boxes or one.boxes for one in chosen}
    return [
        one
        for one in waiting
        if (where := areas.get((one.device, one.rows, one.columns))) is not None
        and all(any(area.covers(box) for area in where) for box in one.boxes)
    ]


def _fits(box: Box, waiting: Waiting) -> bool:
    return 0 <= box.top < box.bottom <= waiting.rows and 0 <= box.left < box.right <= waiting.columns


def _ruled(
    rules: BurnRules, chosen: Sequence[Waiting], verdict: Decision, boxes: Sequence[Box], *, rule: bool
) -> tuple[BurnRules, int]:  # fmt: skip
    files, devices = dict(rules.files), dict(rules.devices)
    for one in chosen:
        areas = tuple(boxes) or one.boxes
        files[one.content] = FileVerdict(verdict=verdict, boxes=areas if verdict == "mask" else ())
        if rule:
            before = devices.get(one.device, DeviceRule())
            mask, harmless = (areas, ()) if verdict == "mask" else ((), areas)
            devices[one.device] = DeviceRule(mask=merged((*before.mask, *mask)), harmless=merged((*before.harmless, *harmless)))
    return BurnRules(files=files, devices=devices), len({one.device for one in chosen}) if rule else 0


@dataclass(frozen=True)
class Listing:
    """What waits."""

    waiting: tuple[Waiting, ...]

    def facts(self) -> dict[str, Any]:
        return {"format": "fedrad-review-list-1", "waiting": [{**one.model_dump(mode="json"), "id": one.id} for one in self.waiting]}

    def lines(self) -> list[str]:
        if not self.waiting:
            return ["no picture waits for a review"]
        rows = [f"{len(self.waiting)} {'picture waits' if len(self.waiting) == 1 else 'pictures wait'} for a review"]
        for one in self.waiting:
            where = ", ".join(f"{box.top},{box.left},{box.bottom},{box.right}" for box in one.boxes) or "no line of text found"
            rows.append(f"  {one.id}  {one.code:<10}  device {one.device[:8]}  {one.rows}×{one.columns}  {where}")
        return [*rows, "  look at them  fedrad-site review --page review.html"]


def listing(home: Home) -> Listing:
    return Listing(tuple(queue.entries(home.path)))


def shown(home: Home, name: str) -> Path:
    """Where the picture of one lies, for a viewer. Raises MisuseError: no such picture."""
    return queue.picture_path(home.path, _chosen(queue.entries(home.path), [name])[0])
