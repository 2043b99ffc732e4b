"""The report's drawings as plain plotly specifications; colours are names that the page's style sheet resolves, light or dark."""

from collections.abc import Sequence

from fedrad_common import metrics
from fedrad_common.page.drawing import ACCENT, INK, QUIET, Spec, base_layout, plain_name
from fedrad_server.report.comparison import Arm
from fedrad_server.report.inputs import Release, ReportInput
from fedrad_server.report.privacy import SitePrivacy

_SERIES = [f"var(--series-{i})" for i in range(1, 9)]
KIND_COLOUR = {"local": QUIET, "federated": ACCENT, "pooled": INK}
POOLED = "all sites pooled"


def convergence(values: ReportInput, label: int) -> Spec:
    """AUC by evaluated round, a line for each site and the pooled one, 95 % intervals as bars."""
    lines = [(site, [r for r in values.releases if r.site == site]) for site in values.sites]
    lines = [(site, releases) for site, releases in lines if releases]
    span = max(values.evaluated_rounds, default=1) - min(values.evaluated_rounds, default=0)
    data = []
    for index, (site, releases) in enumerate(lines):
        shift = (index - len(lines) / 2) * 0.008 * max(span, 1)  # so that the bars of one round stand side by side
        data.append(_estimates(releases, label, name=site, colour=site_colour(index, len(lines)), shift=shift, bars=len(lines) <= 8))
    data.append(_estimates(values.pooled, label, name=POOLED, colour=INK, shift=len(lines) / 2 * 0.008 * max(span, 1), width=3))
    layout = base_layout(x="round", y="AUC, 95 % interval", height=380)
    layout["xaxis"]["tickvals"] = list(values.evaluated_rounds)
    return {"data": [trace for trace in data if trace["x"]], "layout": layout}


def arms(chosen: Sequence[Arm]) -> Spec:
    """One dot and interval an arm; filled is private, open is not."""
    data = []
    names = [plain_name(arm.name) for arm in chosen]
    for arm, name in zip(chosen, names, strict=True):
        if arm.auc is None:
            continue
        low, high = arm.auc_ci or (arm.auc, arm.auc)
        symbol, colour = "circle" if arm.private else "circle-open", KIND_COLOUR[arm.kind]
        data.append(
            {
                "type": "scatter", "mode": "markers", "x": [arm.auc], "y": [name], "showlegend": False,
                "marker": {"size": 11, "color": colour, "symbol": symbol, "line": {"width": 2, "color": colour}},
                "error_x": _bars([high - arm.auc], [arm.auc - low], colour),
                "hovertemplate": f"AUC %{{x:.3f}} ({low:.3f} – {high:.3f})<extra></extra>",
            }
        )  # fmt: skip
    layout = base_layout(x="AUC, 95 % interval", y="", height=90 + 34 * len(names))
    layout["yaxis"] |= {"categoryorder": "array", "categoryarray": names[::-1], "showgrid": False, "ticklabelstandoff": 8}
    return {"data": data, "layout": layout}


def epsilon(lines: Sequence[SitePrivacy], *, unit: str) -> Spec:
    """Epsilon so far, by round, of sites that have a bound."""
    bounded = [line for line in lines if line.curve]
    data = [
        {"type": "scatter", "mode": "lines+markers", "name": plain_name(line.site), "x": [0, *(number for number, _ in line.curve)],
         "y": [0, *(spent for _, spent in line.curve)], "line": {"color": site_colour(index, len(bounded)), "width": 2},
         "hovertemplate": "after round %{x}: ε ≤ %{y:.2f}"}
        for index, line in enumerate(bounded)
    ]  # fmt: skip
    layout = base_layout(x="round", y=f"ε per {unit}, upper bound", height=340)
    layout["yaxis"]["rangemode"] = "tozero"
    return {"data": data, "layout": layout}


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
        "type": "scatter", "mode": "lines+markers", "name": plain_name(name), "x": list(x), "y": list(y), "text": list(rounds),
        "line": {"color": colour, "width": width}, "marker": {"size": 5 + width, "color": colour},
        "hovertemplate": "%{text}: AUC %{y:.3f}", **({"error_y": _bars(up, down, colour)} if bars else {}),
    }  # fmt: skip


def _bars(up: Sequence[float], down: Sequence[float], colour: str) -> Spec:
    return {"type": "data", "symmetric": False, "array": list(up), "arrayminus": list(down), "color": colour, "thickness": 1.5, "width": 3}


def site_colour(index: int, n_sites: int) -> str:
    return _SERIES[index] if n_sites <= len(_SERIES) else QUIET
