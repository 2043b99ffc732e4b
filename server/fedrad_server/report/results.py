"""What the run reached: summary in words, comparison of arms, convergence, ROC and reliability."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedrad_common import metrics
from fedrad_common.page.drawing import Spec
from fedrad_common.page.markup import Markup, element, figure, join, note, section, table
from fedrad_server.report import figures, words
from fedrad_server.report.comparison import Arm
from fedrad_server.report.curves import Curve, arm_curves, release_curves, reliability, roc
from fedrad_server.report.inputs import Release, ReportInput
from fedrad_server.report.privacy import SitePrivacy

_MOST_LABELS = 8  # drawn; all are in the tables
_ORDER = {"local": 0, "federated": 1, "pooled": 2}


@dataclass(frozen=True)
class Part:
    """One section and the figures that its places name."""

    markup: Markup
    figures: dict[str, Spec]


def summary(values: ReportInput, lines: Sequence[SitePrivacy]) -> Part:
    sentences = [_what_was_trained(values), _what_it_reached(values), _what_it_cost(values, lines)]
    return Part(section("summary", "In short", element("p", " ".join(filter(None, sentences)), class_="lead"), _tiles(values, lines)), {})


def comparison(values: ReportInput) -> Part:
    if values.comparison is None:
        return Part(Markup(""), {})
    chosen = _ordered(values.comparison.arms)
    unit = values.comparison.unit
    rows = [
        (
            arm.name,
            {"local": "alone", "federated": "federated", "pooled": "pooled"}[arm.kind],
            "yes" if arm.private else "no",
            f"{arm.n:,}",
            words.with_interval(arm.auc, arm.auc_ci),
            words.with_interval(arm.brier, arm.brier_ci),
            f"{words.epsilon(arm.epsilon)}" + (f" (δ {words.delta(arm.delta)})" if arm.epsilon is not None and arm.delta else ""),
            f"{arm.steps:,}",
            words.size(arm.bytes_out),
        )
        for arm in chosen
    ]
    head = ("model", "trained", "private", "cases scored", "AUC (95 % interval)", "Brier", f"ε per {unit}", "steps", "bytes out")
    explained = (
        "All arms are scored on the same held-out cases. Pooling needs every image in one place and exists in simulations only. "
        "Where two intervals overlap, this table alone does not show a difference."
    )
    caption = "AUC of each arm with its 95 % interval. A filled dot is trained with privacy, an open one without."
    body = [figure("arms", caption, label="AUC of each arm with intervals"), table(head, rows, numbers=(3, 4, 5, 6, 7, 8)), note(explained)]
    return Part(section("comparison", "Alone, together, pooled", *body), {"arms": figures.arms(chosen)})


def convergence(values: ReportInput) -> Part:
    if not values.releases:
        text = "No validation histograms were released in this run, so nothing is known here of how it converged."
        return Part(section("convergence", "Convergence", element("p", text)), {})
    body: list[Markup] = [element("p", _how_measured(values))]
    specs = {}
    for index, label in enumerate(values.labels[:_MOST_LABELS]):
        specs[f"convergence-{index}"] = figures.convergence(values, index)
        caption = (
            f"{label}: AUC on each hospital's own validation patients after the evaluated rounds; bars are 95 % intervals. "
            "No dot where too few patients stand behind it."
        )
        body.append(figure(f"convergence-{index}", caption, label=f"AUC by round for {label}"))
    if len(values.labels) > _MOST_LABELS:
        body.append(note(f"{len(values.labels) - _MOST_LABELS} more labels are in the table only."))
    return Part(section("convergence", "Convergence at each hospital", *body, _last_round(values)), specs)


def curves(values: ReportInput) -> Part:
    """ROC and reliability: of the comparison's arms where there are any, else of the last evaluation."""
    drawn: dict[str, Spec] = {}
    body: list[Markup] = []
    with_curves = [arm for arm in values.comparison.arms if arm.roc] if values.comparison else []
    if with_curves:
        body.append(_pair(drawn, "arms", arm_curves(_ordered(with_curves)), unit=values.unit))
    elif values.releases:
        for index, label in enumerate(values.labels[:_MOST_LABELS]):
            chosen = release_curves(values, index)
            if chosen:
                body += [element("h3", label)] if len(values.labels) > 1 else []
                body.append(_pair(drawn, f"release-{index}", chosen, unit=values.unit))
    if not body:
        return Part(Markup(""), {})
    drawn_as = (
        "A broken line was trained without privacy." if with_curves else "Noised curves are made to rise; a point stands for several bins."
    )
    return Part(section("curves", "ROC and reliability", *body, note(drawn_as)), drawn)


def _pair(drawn: dict[str, Spec], name: str, chosen: Sequence[Curve], *, unit: str) -> Markup:
    drawn |= {f"roc-{name}": roc(chosen), f"reliability-{name}": reliability(chosen, unit=unit)}
    left = figure(f"roc-{name}", "ROC: how many of the ill are found, at which price in false alarms.", label="ROC curves")
    read_as = (
        "Reliability: of cases with a given score, how many are ill. On the dotted line a score is a probability. Larger dots, more cases."
    )
    right = figure(f"reliability-{name}", read_as, label="reliability curves")
    return element("div", left, right, class_="pair")


def _ordered(chosen: Sequence[Arm]) -> list[Arm]:
    return sorted(chosen, key=lambda arm: (_ORDER[arm.kind], not arm.private, arm.name))


def _last_round(values: ReportInput) -> Markup:
    last = values.evaluated_rounds[-1]
    chosen = [release for release in (*values.releases, *values.pooled) if release.round == last]
    rows = []
    for release in chosen:
        for index, label in enumerate(values.labels):
            rows.append((release.site if release.site != "pooled" else "all sites pooled", label, *_estimates(release, index)))
    head = ("site", "label", "AUC (95 % interval)", "Brier (95 % interval)", "patients, positive / negative", "release")
    return table(head, rows, numbers=(2, 3, 4), caption=f"After round {last}, on validation patients")


def _estimates(release: Release, index: int) -> tuple[str, str, str, str]:
    cells, noise = release.counts[index], release.noise
    kind = f"noised, σ = {noise:.1f} a cell" if noise else "exact, marked"
    if not metrics.enough(cells, noise=noise):
        return "too few to tell from noise" if noise else "too few", words.DASH, words.DASH, kind
    area = words.with_interval(metrics.auc(cells, noise=noise), metrics.auc_interval(cells, noise=noise))
    loss = words.with_interval(metrics.brier(cells, noise=noise), metrics.brier_interval(cells, noise=noise))
    negative, positive = metrics.totals(cells)
    return area, loss, f"{'≈ ' if noise else ''}{round(positive):,} / {round(negative):,}", kind


def _how_measured(values: ReportInput) -> str:
    if values.protocol.evaluation.release == "noised":
        how = "Each hospital sends counts of scores in 32 bins with noise on every count, so that no single patient shows."
    else:
        how = "Each hospital sends exact counts of scores in 32 bins; these releases are not private and are marked."
    return f"{how} The intervals take patients as units and include the noise. Validation patients are never trained on."


def _what_was_trained(values: ReportInput) -> str:
    labels = words.listed([f"“{label}”" for label in values.labels[:4]]) + (" and others" if len(values.labels) > 4 else "")
    asked = values.protocol.privacy.rounds
    hospitals = "hospital" if len(values.sites) == 1 else "hospitals"
    return (
        f"{words.opening(len(values.sites))} {hospitals} trained one model for {labels} together, {values.rounds_played} of {asked} rounds."
    )


def _what_it_reached(values: ReportInput) -> str:
    arm = _headline_arm(values)
    if arm is not None and arm.auc is not None:
        bounds = f" (95 % interval {words.interval(arm.auc_ci)})" if arm.auc_ci else ""
        return f"On held-out cases the federated model reached an AUC of {arm.auc:.3f}{bounds}."
    found = _headline_release(values)
    if found is None:
        return "No estimate of its quality was released with enough patients behind it."
    label, area, bounds_ = found
    of = f" for “{label}”" if len(values.labels) > 1 else ""
    last = values.evaluated_rounds[-1]
    return f"After round {last} its AUC{of} on all validation patients together was {area:.3f} (95 % interval {words.interval(bounds_)})."


def _what_it_cost(values: ReportInput, lines: Sequence[SitePrivacy]) -> str:
    if not lines:
        return "No update was accepted."
    unbounded = [line.site for line in lines if not line.curve]
    if unbounded:
        who = "no site" if len(unbounded) == len(lines) else f"{len(unbounded)} of {len(lines)} sites"
        return "The training carried no privacy bound." if who == "no site" else f"The training carried no privacy bound at {who}."
    worst = max(lines, key=lambda line: line.whole_run)
    return (
        f"What it sent reveals of any one {values.unit} no more than ε = {words.epsilon(worst.whole_run)} allows "
        f"(the whole run, at the site where it is largest; δ = {words.delta(worst.delta)})."
    )


def _tiles(values: ReportInput, lines: Sequence[SitePrivacy]) -> Markup:
    arm, found = _headline_arm(values), _headline_release(values)
    if arm is not None:
        area, bounds, of = arm.auc, arm.auc_ci, "federated, held-out cases"
    else:
        area, bounds, of = (found[1], found[2], "validation, all sites pooled") if found else (None, None, "not released")
    asked = len(values.sites) * values.rounds_played
    accepted = sum(len(manifest.updates) for manifest in values.manifests)
    whole = [line.whole_run for line in lines]
    sent = sum(4 * envelope.length for envelope in values.envelopes)
    tiles = [
        ("AUC", words.number(area), words.interval(bounds) if bounds else "", of),
        (f"ε per {values.unit}", words.epsilon(max(whole)) if whole else words.DASH, "", "whole run, largest site"),
        ("updates", f"{accepted} of {asked}", "", "accepted of asked"),
        ("left the sites", words.size(sent), "", "in all, over the run"),
    ]
    return element("div", join(_tile(*tile) for tile in tiles), class_="tiles")


def _tile(name: str, value: str, bounds: str, explained: str) -> Markup:
    return element(
        "div",
        element("span", name, class_="name"),
        element("strong", value),
        element("span", bounds),
        element("small", explained),
        class_="tile",
    )


def _headline_arm(values: ReportInput) -> Arm | None:
    """The federated arm that this run is: with or without privacy as its protocol says, at its epsilon."""
    asked = values.protocol.privacy.epsilon
    federated = [arm for arm in values.comparison.arms if arm.kind == "federated"] if values.comparison else []
    alike = [arm for arm in federated if arm.private == (asked is not None)] or federated
    return min(alike, key=lambda arm: abs((arm.epsilon or 0.0) - (asked or 0.0)), default=None)


def _headline_release(values: ReportInput) -> tuple[str, float, tuple[float, float]] | None:
    if not values.pooled:
        return None
    last = values.pooled[-1]
    area = metrics.auc(last.counts[0], noise=last.noise)
    bounds = metrics.auc_interval(last.counts[0], noise=last.noise)
    return (values.labels[0], area, bounds) if area is not None and bounds is not None else None
