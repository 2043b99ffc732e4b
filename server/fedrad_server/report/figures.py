"""The report's drawings as plain plotly specifications; colours are names that the page's style sheet resolves, light or dark."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedrad_common import metrics
from fedrad_server.report.comparison import Arm
from fedrad_server.report.inputs import Release, ReportInput
from fedrad_server.report.privacy import SitePrivacy

Spec = dict[str, Any]
_SERIES = [f"var(--series-{i})" for i in range(1, 9)]
_QUIET, _INK, _ACCENT, _LINE = "var(--quiet)", "var(--ink)", "var(--accent)", "var(--line)"
_KIND = {"local": _QUIET, "federated": _ACCENT, "pooled": _INK}
_POOLED = "all sites pooled"


def convergence(values: ReportInput, label: int) -> Spec:
    """AUC by evaluated round, a line for each site and the pooled one, 95 % intervals as bars."""
    lines = [(site, [r for r in values.releases if r.site == site]) for site in values.sites]
    lines = [(site, releases) for site, releases in lines if releases]
    span = max(values.evaluated_rounds, default=1) - min(values.evaluated_rounds, default=0)
    data = []
    for index, (site, releases) in enumerate(lines):
        shift = (index - len(lines) / 2) * 0.008 * max(span, 1)  # so that the bars of one round stand side by side
        data.append(_estimates(releases, label, name=site, colour=_site_colour(index, len(lines)), shift=shift, bars=len(lines) <= 8))
    data.append(_estimates(values.pooled, label, name=_POOLED, colour=_INK, shift=len(lines) / 2 * 0.008 * max(span, 1), width=3))
    layout = _layout(x="round", y="AUC, 95 % interval", height=380)
    layout["xaxis"]["tickvals"] = list(values.evaluated_rounds)
    return {"data": [trace for trace in data if trace["x"]], "layout": layout}


def arms(chosen: Sequence[Arm]) -> Spec:
    """One dot and interval an arm; filled is private, open is not."""
    data = []
    names = [_name(arm.name) for arm in chosen]
    for arm, name in zip(chosen, names, strict=True):
        if arm.auc is None:
            continue
        low, high = arm.auc_ci or (arm.auc, arm.auc)
        symbol = "circle" if arm.private else "circle-open"
        data.append(
            {
                "type": "scatter", "mode": "markers", "x": [arm.auc], "y": [name], "showlegend": False,
                "marker": {"size": 11, "color": _KIND[arm.kind], "symbol": symbol, "line": {"width": 2, "color": _KIND[arm.kind]}},
                "error_x": _bars([high - arm.auc], [arm.auc - low], _KIND[arm.kind]),
                "hovertemplate": f"AUC %{{x:.3f}} ({low:.3f} – {high:.3f})<extra></extra>",
            }
        )  # fmt: skip
    layout = _layout(x="AUC, 95 % interval", y="", height=90 + 34 * len(names))
    layout["yaxis"] |= {"categoryorder": "array", "categoryarray": names[::-1], "showgrid": False, "ticklabelstandoff": 8}
    return {"data": data, "layout": layout}


def roc(curves: Sequence[tuple[str, str, np.ndarray[Any, Any]]]) -> Spec:
    """Curves are (name, colour, (k, 2) false and true positive rates)."""
    data = [
        {"type": "scatter", "mode": "lines", "name": _name(name), "x": _list(points[:, 0]), "y": _list(points[:, 1]),
         "line": {"color": colour, "width": 1.5 if colour == _QUIET else 2.5}}
        for name, colour, points in curves if len(points)
    ]  # fmt: skip
    layout = _layout(x="false positive rate (1 − specificity)", y="true positive rate (sensitivity)", height=430)
    return {"data": [_diagonal(), *data], "layout": _square(layout)}


def reliability(curves: Sequence[tuple[str, str, np.ndarray[Any, Any]]], *, unit: str) -> Spec:
    """Curves are (name, colour, (k, 3) mean score, observed share, n)."""
    data = [
        {"type": "scatter", "mode": "lines+markers", "name": _name(name), "x": _list(points[:, 0]), "y": _list(points[:, 1]),
         "line": {"color": colour, "width": 1 if colour == _QUIET else 2}, "marker": {"size": _list(_sizes(points[:, 2])), "color": colour},
         "text": [f"about {round(float(n)):,} {unit}s" for n in points[:, 2]],
         "hovertemplate": "score %{x:.2f}, observed %{y:.2f}, %{text}<extra></extra>"}
        for name, colour, points in curves if len(points)
    ]  # fmt: skip
    layout = _layout(x="score", y="observed share of positives", height=430)
    return {"data": [_diagonal(), *data], "layout": _square(layout)}


def epsilon(lines: Sequence[SitePrivacy]) -> Spec:
    """Epsilon so far, by round, of sites that have a bound."""
    bounded = [line for line in lines if line.curve]
    data = [
        {"type": "scatter", "mode": "lines+markers", "name": _name(line.site), "x": [0, *(number for number, _ in line.curve)],
         "y": [0, *(spent for _, spent in line.curve)], "line": {"color": _site_colour(index, len(bounded)), "width": 2},
         "hovertemplate": "after round %{x}: ε ≤ %{y:.2f}"}
        for index, line in enumerate(bounded)
    ]  # fmt: skip
    layout = _layout(x="round", y="ε per patient, upper bound", height=340)
    layout["yaxis"]["rangemode"] = "tozero"
    return {"data": data, "layout": layout}


def release_curves(values: ReportInput, label: int) -> tuple[list[tuple[str, str, Any]], list[tuple[str, str, Any]]]:
    """ROC and reliability of the last evaluated round, site by site and pooled, where there are enough patients behind them."""
    last = values.evaluated_rounds[-1]
    chosen = [release for release in values.releases if release.round == last]
    named = [(release.site, _site_colour(i, len(chosen)), release) for i, release in enumerate(chosen)]
    named += [(_POOLED, _INK, release) for release in values.pooled if release.round == last]
    named = [entry for entry in named if metrics.enough(entry[2].counts[label], noise=entry[2].noise)]
    rocs = [(name, colour, metrics.roc_points(release.counts[label])) for name, colour, release in named]
    points = [(name, colour, metrics.reliability_points(release.counts[label], noise=release.noise)) for name, colour, release in named]
    return rocs, points


def arm_curves(chosen: Sequence[Arm]) -> tuple[list[tuple[str, str, Any]], list[tuple[str, str, Any]]]:
    rocs, points = [], []
    for arm in chosen:
        rocs.append((arm.name, _KIND[arm.kind], np.asarray(arm.roc, dtype=np.float64).reshape(-1, 2)))
        points.append((arm.name, _KIND[arm.kind], np.asarray(arm.reliability, dtype=np.float64).reshape(-1, 3)))
    return rocs, points


def _estimates(
    releases: Sequence[Release], label: int, *, name: str, colour: str, shift: float, width: float = 1.5, bars: bool = True
) -> Spec:
    rows = []
    for release in releases:
        cells = release.counts[label]
        point = metrics.auc(cells, noise=release.noise, least=metrics.MIN_PATIENTS)
        bounds = metrics.auc_interval(cells, noise=release.noise)
        if point is not None and bounds is not None:
            rows.append((release.round + shift, point, bounds[1] - point, point - bounds[0], f"round {release.round}"))
    x, y, up, down, rounds = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    return {
        "type": "scatter", "mode": "lines+markers", "name": _name(name), "x": list(x), "y": list(y), "text": list(rounds),
        "line": {"color": colour, "width": width}, "marker": {"size": 5 + width, "color": colour},
        "hovertemplate": "%{text}: AUC %{y:.3f}", **({"error_y": _bars(up, down, colour)} if bars else {}),
    }  # fmt: skip


def _bars(up: Sequence[float], down: Sequence[float], colour: str) -> Spec:
    return {"type": "data", "symmetric": False, "array": list(up), "arrayminus": list(down), "color": colour, "thickness": 1.5, "width": 3}


def _layout(*, x: str, y: str, height: int) -> Spec:
    axis = {"gridcolor": _LINE, "zeroline": False, "linecolor": _LINE, "tickcolor": _LINE, "automargin": True, "fixedrange": True}
    return {
        "height": height, "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "margin": {"l": 52, "r": 12, "t": 12, "b": 48},
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "var(--ink-2)"}, "hovermode": "closest", "dragmode": False,
        "hoverlabel": {"bgcolor": "var(--paper)", "bordercolor": _LINE, "font": {"color": _INK}},
        "xaxis": {**axis, "title": {"text": x, "standoff": 10}}, "yaxis": {**axis, "title": {"text": y, "standoff": 8}},
        "legend": {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0, "font": {"size": 12}},
    }  # fmt: skip


def _square(layout: Spec) -> Spec:
    for axis in ("xaxis", "yaxis"):
        layout[axis] |= {"range": [-0.01, 1.01], "dtick": 0.25}
    return layout


def _diagonal() -> Spec:
    return {
        "type": "scatter", "mode": "lines", "x": [0, 1], "y": [0, 1], "hoverinfo": "skip", "showlegend": False,
        "line": {"color": _QUIET, "width": 1, "dash": "dot"},
    }  # fmt: skip


def _site_colour(index: int, n_sites: int) -> str:
    return _SERIES[index] if n_sites <= len(_SERIES) else _QUIET


def _sizes(n: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(4 + 10 * np.sqrt(n / n.max()))


def _list(column: np.ndarray[Any, Any]) -> list[float]:
    return [round(float(value), 5) for value in column]


def _name(name: str) -> str:
    """Plotly reads a small HTML of its own in texts: links and bold from a hostile name stay letters."""
    return html.escape(name, quote=False)
