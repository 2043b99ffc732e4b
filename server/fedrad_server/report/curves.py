"""ROC and reliability curves, of a comparison's arms or of the last evaluation's histograms."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedrad_common import metrics
from fedrad_common.page.drawing import INK, QUIET, Spec, base_layout, plain_name
from fedrad_server.report.comparison import Arm
from fedrad_server.report.figures import KIND_COLOUR, POOLED, site_colour
from fedrad_server.report.inputs import ReportInput

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    name: str
    colour: str
    roc: Points  # (k, 2) false and true positive rates
    reliability: Points  # (m, 3) mean score, observed share, n
    broken: bool = False  # trained without privacy
    group: str = ""  # curves of one group share one entry in the legend


def release_curves(values: ReportInput, label: int) -> list[Curve]:
    """Of the last evaluated round, site by site and pooled, where there are enough patients behind them."""
    last = values.evaluated_rounds[-1]
    chosen = [release for release in values.releases if release.round == last]
    named = [(release.site, site_colour(i, len(chosen)), release) for i, release in enumerate(chosen)]
    named += [(POOLED, INK, release) for release in values.pooled if release.round == last]
    return [
        Curve(
            name, colour, metrics.roc_points(release.counts[label]), metrics.reliability_points(release.counts[label], noise=release.noise)
        )
        for name, colour, release in named
        if metrics.enough(release.counts[label], noise=release.noise)
    ]


def arm_curves(arms: Sequence[Arm]) -> list[Curve]:
    return [
        Curve(
            name=arm.name,
            colour=KIND_COLOUR[arm.kind],
            roc=np.asarray(arm.roc, dtype=np.float64).reshape(-1, 2),
            reliability=np.asarray(arm.reliability, dtype=np.float64).reshape(-1, 3),
            broken=not arm.private,
            group="each hospital alone" if arm.kind == "local" else "",
        )
        for arm in arms
    ]


def roc(curves: Sequence[Curve]) -> Spec:
    data = [
        {"type": "scatter", "mode": "lines", "x": _list(curve.roc[:, 0]), "y": _list(curve.roc[:, 1]), "line": _line(curve),
         "hovertemplate": "%{x:.2f}, %{y:.2f}<extra>" + _hovered(curve) + "</extra>", **_legend(curve, curves)}
        for curve in curves if len(curve.roc)
    ]  # fmt: skip
    return _square(data, x="false positive rate (1 − specificity)", y="true positive rate (sensitivity)")


def reliability(curves: Sequence[Curve], *, unit: str) -> Spec:
    data = [
        {"type": "scatter", "mode": "lines+markers", "x": _list(curve.reliability[:, 0]), "y": _list(curve.reliability[:, 1]),
         "line": _line(curve), "marker": {"size": _sizes(curve.reliability[:, 2]), "color": curve.colour},
         "text": [f"about {round(float(n)):,} {unit}s" for n in curve.reliability[:, 2]],
         "hovertemplate": "score %{x:.2f}, observed %{y:.2f}, %{text}<extra>" + _hovered(curve) + "</extra>", **_legend(curve, curves)}
        for curve in curves if len(curve.reliability)
    ]  # fmt: skip
    return _square(data, x="score", y="observed share of positives")


def _line(curve: Curve) -> Spec:
    return {"color": curve.colour, "width": 1.2 if curve.colour == QUIET else 2.2, "dash": "dash" if curve.broken else "solid"}


def _legend(curve: Curve, curves: Sequence[Curve]) -> Spec:
    if not curve.group:
        return {"name": plain_name(curve.name)}
    first = next(other for other in curves if other.group == curve.group)
    return {"name": curve.group, "legendgroup": curve.group, "showlegend": curve is first}


def _hovered(curve: Curve) -> str:
    return plain_name(curve.name).replace("%{", "% {")  # a name is no template


def _square(data: list[Spec], *, x: str, y: str) -> Spec:
    diagonal = {
        "type": "scatter", "mode": "lines", "x": [0, 1], "y": [0, 1], "hoverinfo": "skip", "showlegend": False,
        "line": {"color": QUIET, "width": 1, "dash": "dot"},
    }  # fmt: skip
    layout = base_layout(x=x, y=y, height=430)
    for axis in ("xaxis", "yaxis"):
        layout[axis] |= {"range": [-0.01, 1.01], "dtick": 0.25}
    return {"data": [diagonal, *data], "layout": layout}


def _sizes(n: Points) -> list[float]:
    return _list(4 + 8 * np.sqrt(np.maximum(n, 0) / max(1.0, float(n.max()))))


def _list(column: Points) -> list[float]:
    return [round(float(value), 5) for value in column]
