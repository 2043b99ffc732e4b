"""What sites are shown of a run besides the model: the launch, the manifests since they last answered, each other's answers, a receipt."""

from collections.abc import Mapping

from fedrad_common.records import Envelope, Evidence, Signed, built_on, witnesses


class Shown:
    """A run's signed records in memory. The sites compare them with what they know (`fedrad_client.evidence`)."""

    def __init__(self, launch: Signed, *manifests: Signed) -> None:
        self.launch, self.manifests = launch, list(manifests)  # index is the round
        self.receipts: dict[str, Signed] = {}  # for each site's last accepted answer
        self._known: dict[str, int] = {}  # the newest manifest that each site is known to have built on

    def accepted(self, envelope: Envelope, receipt: Signed) -> None:
        self.receipts[envelope.site] = receipt
        self._known[envelope.site] = max(self._known.get(envelope.site, 0), built_on(envelope))

    def to(self, site: str, number: int, *, peers: Mapping[str, Signed], answer: Signed | None) -> Evidence:
        """For an order that builds on manifest `number`.

        Args:
            peers: the accepted answers of round `number`.
            answer: the site's last one over all runs.
        """
        since = max(0, min(self._known.get(site, 0), number - 1))
        return Evidence(
            launch=self.launch,
            manifests=tuple(self.manifests[since : number + 1]),
            peers=tuple(peers[name] for name in witnesses(site, peers)),
            receipt=self.receipts.get(site),
            answer=answer,
        )
