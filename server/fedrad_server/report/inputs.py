"""Everything the report draws, as plain values: the page never touches a disk, and a test can make any run by hand."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fedrad_common import metrics
from fedrad_common.protocol import TrainingProtocol
from fedrad_common.records import Envelope, Launch, RoundManifest
from fedrad_server.report.comparison import Comparison


@dataclass(frozen=True)
class Release:
    """One site's validation histogram of one round, or the pooled one."""

    site: str
    round: int
    counts: npt.NDArray[np.float64]  # (n_labels, 2, 32), noised or exact
    noise: float  # standard deviation of each cell, in patients; 0 is exact
    marked: bool  # exact, not charged


@dataclass(frozen=True)
class Head:
    """A chain's length and newest hash."""

    name: str
    entries: int
    hash: str


@dataclass(frozen=True)
class ReportInput:
    protocol: TrainingProtocol
    launch: Launch
    state: str  # in words: "complete", "paused after round 3"
    manifests: tuple[RoundManifest, ...]  # from round 0, in order
    digests: tuple[str, ...]  # of the manifests' signed bytes
    envelopes: tuple[Envelope, ...]  # of every accepted answer, training and evaluation
    releases: tuple[Release, ...] = ()
    heads: tuple[Head, ...] = ()
    comparison: Comparison | None = None
    envelope_bytes: Mapping[str, int] = field(default_factory=dict)  # by site: of the signed metadata, where known

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(sorted(self.launch.roster))

    @property
    def labels(self) -> tuple[str, ...]:
        return self.protocol.task.labels

    @property
    def seeded(self) -> bool:
        return self.launch.seeded or (self.comparison is not None and self.comparison.seeded)

    @property
    def unit(self) -> str:
        return self.comparison.unit if self.comparison else "patient"

    @property
    def rounds_played(self) -> int:
        return max((manifest.round for manifest in self.manifests), default=0)

    def envelopes_of(self, site: str, kind: str) -> tuple[Envelope, ...]:
        chosen = (envelope for envelope in self.envelopes if envelope.site == site and envelope.kind == kind)
        return tuple(sorted(chosen, key=lambda envelope: envelope.round))

    @cached_property
    def evaluated_rounds(self) -> tuple[int, ...]:
        return tuple(sorted({release.round for release in self.releases}))

    @cached_property
    def pooled(self) -> tuple[Release, ...]:
        """The sum over sites of each evaluated round."""
        sums = []
        for number in self.evaluated_rounds:
            of_round = [release for release in self.releases if release.round == number]
            counts, noise = metrics.pool([release.counts for release in of_round], [release.noise for release in of_round])
            sums.append(Release("pooled", number, counts, noise, any(release.marked for release in of_round)))
        return tuple(sums)
