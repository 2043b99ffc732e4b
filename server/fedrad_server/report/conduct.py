"""How the run went and what it cost: privacy, who took part, what left each site, protocol, records, and what all this does not show."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from fedrad_common.errors import REFUSAL_CODES
from fedrad_common.page.markup import Content, Markup, element, figure, join, note, section, table
from fedrad_common.records import Envelope, RoundManifest
from fedrad_server.report import figures, words
from fedrad_server.report.inputs import ReportInput
from fedrad_server.report.privacy import SitePrivacy, group_epsilon, worst_event
from fedrad_server.report.results import Part

_OUTSIDE = (
    "Not covered by ε: the decisions of people (to enrol, approve, pause, withdraw); when and whether a site answers, beyond the listed "
    "codes and time slots; what is not about one patient, such as a hospital's prevalence; attacks on a site's own machine."
)


def privacy(values: ReportInput, lines: Sequence[SitePrivacy]) -> Part:
    body: list[Content] = [element("p", _unit_line(values, lines))]
    specs = {}
    if any(line.curve for line in lines):
        specs["epsilon"] = figures.epsilon(lines, unit=values.unit)
        caption = "ε of the answers accepted so far, computed at the marked rounds; the lines between them guide the eye."
        body.append(figure("epsilon", caption, label="privacy spent by round at each site"))
    body.append(_privacy_table(lines))
    body.append(
        note(
            "From the signed envelopes of accepted answers. Each site's own ledger is the authority: it also holds answers that came too "
            "late, and other runs; the whole run is reserved at its first round and an early end gives nothing back. Upper bounds."
        )
    )
    body.append(note(_OUTSIDE))
    return Part(section("privacy", "Privacy spent at each hospital", *body), specs)


def participation(values: ReportInput) -> Part:
    played = [manifest for manifest in values.manifests if manifest.round > 0]
    if not played:
        return Part(section("participation", "Who took part", element("p", "No round was closed.")), {})
    rows = []
    for site in values.sites:
        outcomes = [(m.round, "accepted" if site in m.updates else m.missing.get(site, "missing")) for m in played]
        rows.append(element("tr", element("th", site, scope="row"), *_runs(outcomes), element("td", _in_words(outcomes), class_="words")))
    head = element(
        "thead", element("tr", element("th", "round", scope="col"), *_round_numbers(played), element("th", "in words", class_="words"))
    )
    columns = element("colgroup", element("col", class_="site"), *[element("col")] * len(played), element("col", class_="words"))
    least = f"min-width: {24 + 1.9 * len(played):.1f}rem"
    grid = element("table", columns, head, element("tbody", *rows), class_="grid", style=least)
    legend = note(
        "Each cell is one round, equal neighbours drawn as one. A refusal code is a site's own word: ",
        join([element("code", code) for code in REFUSAL_CODES], ", "),
        ". Late answers were refused; who is gone no longer spoke to the coordinator; any other word is the coordinator's reason for "
        "not accepting an answer.",
    )
    return Part(section("participation", "Who took part", element("div", grid, class_="scroll", tabindex="0"), legend), {})


def departures(values: ReportInput) -> Part:
    rows = []
    for site in values.sites:
        trained, evaluated = values.envelopes_of(site, "train"), values.envelopes_of(site, "evaluate")
        metadata = values.envelope_bytes.get(site)
        sent = sum(4 * envelope.length for envelope in (*trained, *evaluated))
        rows.append(
            (site, f"{len(trained)}", words.size(sum(4 * e.length for e in trained)), f"{len(evaluated)}",
             words.size(sum(4 * e.length for e in evaluated)), words.DASH if metadata is None else words.size(metadata),
             words.size(sent + (metadata or 0)))
        )  # fmt: skip
    head = ("site", "updates", "bytes", "score histograms", "bytes", "envelopes", "in all")
    length = max((envelope.length for envelope in values.envelopes if envelope.kind == "train"), default=0)
    kinds = [
        ("update", f"{length:,} float32 numbers: the difference to the round's model, clipped and noised where the run is private"),
        ("score histogram", f"{len(values.labels)} × 2 × 32 float32 numbers: validation patients by label, class and bin of score"),
        ("envelope", "signed metadata: " + ", ".join(Envelope.model_fields)),
        ("refusal", "one code of the closed list, instead of an answer"),
    ]
    body = [table(head, rows, numbers=range(1, 7)), table(("name", "what it is"), kinds, caption="Nothing else leaves a site")]
    return Part(section("departures", "What left each hospital", *body), {})


def protocol(values: ReportInput) -> Part:
    rows = _flat(values.protocol.model_dump(mode="json"))
    fingerprint = element("p", "SHA-256 of the canonical document: ", element("code", values.protocol.hash))
    weights = note(
        "Each site weighed by its declared size."
        if values.protocol.aggregation.weighted
        else "Every update weighed the same: a declared size is only a claim, and this strategy is there for sites that lie."
    )
    return Part(section("protocol", "Protocol", fingerprint, table(("key", "value"), rows), weights), {})


def records(values: ReportInput) -> Part:
    chains = [(head.name, f"{head.entries:,}", element("code", head.hash)) for head in values.heads]
    manifests = [
        (
            f"{manifest.round}",
            f"{manifest.epoch}",
            element("code", digest[:16]),
            element("code", manifest.model[:16]),
            f"{len(manifest.updates)}",
        )
        for manifest, digest in zip(values.manifests, values.digests, strict=True)
    ]
    chosen = values.protocol
    seeds = [("initial weights (protocol, model.seed)", f"{chosen.model.seed}")]
    noise = (
        "a fixed seed: the numbers can be made again, and privacy does not hold" if values.seeded else "fresh, from each site's own system"
    )
    seeds.append(("noise and sampling", noise))
    body = [
        table(("part", "version"), sorted(values.launch.versions.items()), caption="Versions at launch"),
        table(("randomness", "from"), seeds, caption="Seeds"),
        element("p", "Coordinator's signing key: ", element("code", values.launch.coordinator)),
        table(("chain", "entries", "head"), chains, numbers=(1,), caption="Heads, to compare with a witness") if chains else None,
        element("details", element("summary", f"Manifests of {words.count(len(manifests), 'round')}, each chained to the one before"),
                table(("round", "epoch", "manifest", "model after it", "updates"), manifests, numbers=(1, 4))),
    ]  # fmt: skip
    return Part(section("records", "Records, versions and seeds", *body), {})


def limits(values: ReportInput, lines: Sequence[SitePrivacy]) -> Part:
    """What a reader might take from the numbers and must not."""
    points: list[Content] = [
        "That the model works elsewhere. It was not tested on hospitals, scanners or patient groups outside this run.",
        "That it helps a patient. AUC and Brier score rank and calibrate scores; no reader, decision or outcome was studied.",
        "Fairness between groups. No age, sex or scanner is part of the data that training sees, so none could be compared.",
        "That the labels are right. Scores are compared with the labels that each hospital supplied, errors included.",
        "That one number among many is not luck: each interval is for one number, and no correction is made for looking at several.",
        "That two hospitals never hold the same patient: somebody at two sites bears at most the sum of both sites' ε.",
        "What other runs cost. A site's ledger counts all of its runs; this page knows one.",
        _OUTSIDE,
    ]
    if any(release.marked for release in values.releases):
        points.append("Marked releases: exact validation histograms left a site without noise and without charge. No bound holds for them.")
    if any(not line.curve for line in lines):
        points.append("A bound, at sites marked “no bound”: their updates were sent without privacy, and this cannot be undone.")
    if values.comparison is not None:
        points.append(
            "That hospitals could compare like this: models of one hospital alone and of pooled data are made in a simulation, and their "
            "numbers are exact and not charged to any ledger."
        )
    if values.seeded:
        points.append("Privacy: the noise was made from a known seed. The numbers hold, the protection does not.")
    if values.unit == "image":
        points.append("Independence of the cases: several images may be one child's, and the intervals take them as different ones.")
    return Part(section("limits", "What these numbers don't show", element("ul", *(element("li", point) for point in points))), {})


def _unit_line(values: ReportInput, lines: Sequence[SitePrivacy]) -> str:
    if values.unit != "image":
        return (
            "Unit: patient. All images of one patient, present or absent, are one record; ε bounds what they can change in what was sent."
        )
    worst = worst_event(values, lines)
    start = "Unit: image. These data carry no patient ids, and several images may be one child's; ε is for one image."
    if worst is None:
        return f"{start} Without a bound for one image there is none for a child."
    two, three = (group_epsilon(*worst, k) for k in (2, 3))
    return (
        f"{start} At the same δ, the whole run's bound at the largest site is ε ≤ {two:.1f} for a child with 2 images and "
        f"ε ≤ {three:.1f} with 3 (Rényi accounting of the group; more than 2 and 3 times as much)."
    )


def _privacy_table(lines: Sequence[SitePrivacy]) -> Markup:
    rows = []
    for line in lines:
        so_far = line.curve[-1][1] if line.curve else math.inf
        validation = "none released" if line.validation is None else words.epsilon(line.validation)
        rows.append(
            (line.site, f"{line.declared_size:,}", f"{line.sampling_rate:.4g}", f"{line.noise_multiplier:.4g}", words.delta(line.delta),
             f"{line.steps:,}", words.epsilon(so_far), words.epsilon(line.whole_run), line.method if line.curve else words.DASH, validation)
        )  # fmt: skip
    head = ("site", "declared size N", "rate q", "noise σ", "δ", "steps", "ε so far", "ε whole run", "by", "ε validation line")
    return table(head, rows, numbers=(1, 2, 3, 4, 5, 6, 7, 9))


def _runs(outcomes: Sequence[tuple[int, str]]) -> list[Markup]:
    cells = []
    for word, group in groupby(outcomes, key=lambda outcome: outcome[1]):
        numbers = [number for number, _ in group]
        title = f"{word}: round {words.ranges(numbers)}"
        width = f"min-width: {1.6 * len(numbers):.1f}rem"
        cells.append(
            element("td", element("span", word, style=width), class_=f"cell {_colour(word)}", colspan=str(len(numbers)), title=title)
        )
    return cells


def _round_numbers(played: Sequence[RoundManifest]) -> list[Markup]:
    every = 1 if len(played) <= 30 else 5
    return [element("th", m.round if m.round % every == 0 or m is played[0] else None, scope="col") for m in played]


def _colour(word: str) -> str:
    if word == "accepted":
        return "accepted"
    if word in ("missing", "silent", "gone"):
        return "missing"
    return "refused" if word in REFUSAL_CODES else "late" if word == "late" else "rejected"


def _in_words(outcomes: Sequence[tuple[int, str]]) -> str:
    found: dict[str, list[int]] = {}
    for number, word in outcomes:
        found.setdefault(word, []).append(number)
    if list(found) == ["accepted"]:
        return "accepted in every round"
    others = [f"{word}: {words.ranges(numbers)}" for word, numbers in found.items() if word != "accepted"]
    return "; ".join([f"accepted in {len(found.get('accepted', []))} of {len(outcomes)}", *others])


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, inner in value.items():
        if isinstance(inner, dict):
            rows += _flat(inner, f"{prefix}{key}.") if inner else [(f"{prefix}{key}", words.DASH)]
        elif isinstance(inner, list):
            rows.append((f"{prefix}{key}", ", ".join(map(str, inner)) or words.DASH))
        else:
            rows.append((f"{prefix}{key}", words.DASH if inner in (None, "") else str(inner)))
    return rows
