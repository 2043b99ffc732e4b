"""The curve as an SVG that needs no script: AUC against epsilon on a logarithmic axis, a point a seed, median, band, reference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedrad_common.page.markup import Markup, element
from fedrad_sim.privacy_utility.outcome import Band

_WIDTH, _HEIGHT = 720.0, 400.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 700.0, 28.0, 346.0
_STEPS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # between the horizontal lines; the first that leaves at most seven
_LABEL = "font-size:13px;fill:var(--ink-2)"


@dataclass(frozen=True)
class Dot:
    seed: int
    epsilon: float
    auc: float


def curve(bands: Sequence[Band], dots: Sequence[Dot], reference: Band | None, *, name: str, label: str) -> Markup:
    """One picture. Every mark holds its value in its title and in `data-` attributes; colours are the page's, light or dark."""
    axis = _Axis.around(bands, reference)
    drawn = [*_grid(axis, [band.epsilon for band in bands if band.epsilon is not None])]
    drawn += _reference(axis, reference) if reference else []
    drawn += _band(axis, bands)
    seeds = sorted({dot.seed for dot in dots})
    drawn += [_dot(axis, dot, (seeds.index(dot.seed) - (len(seeds) - 1) / 2) * min(8.0, 40 / len(seeds))) for dot in dots]
    return element(
        "svg", *drawn, viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}", role="img", aria_label=label, id=name, style="width:100%;height:auto"
    )


@dataclass(frozen=True)
class _Axis:
    """From epsilon and AUC to the picture's units."""

    epsilons: tuple[float, float]
    aucs: tuple[float, float]
    step: float

    @classmethod
    def around(cls, bands: Sequence[Band], reference: Band | None) -> "_Axis":
        shown = [*bands, *([reference] if reference else [])]
        low, high = min(band.low for band in shown), max(band.high for band in shown)
        step = next((step for step in _STEPS if (high - low) / step <= 6), _STEPS[-1])
        asked = [band.epsilon for band in bands if band.epsilon is not None]
        bottom, top = math.floor(low / step) * step, min(1.0, math.ceil(high / step) * step)
        return cls((min(asked) / 1.4, max(asked) * 1.4), (bottom, max(top, bottom + step)), step)

    def x(self, epsilon: float) -> float:
        low, high = (math.log(value) for value in self.epsilons)
        return round(_LEFT + (math.log(epsilon) - low) / (high - low) * (_RIGHT - _LEFT), 2)

    def y(self, auc: float) -> float:
        low, high = self.aucs
        return round(_BOTTOM - (auc - low) / (high - low) * (_BOTTOM - _TOP), 2)


def _grid(axis: _Axis, epsilons: Sequence[float]) -> list[Markup]:
    drawn = [_text(_LEFT - 8, _TOP - 4, "AUC", "end")]
    for number in range(round((axis.aucs[1] - axis.aucs[0]) / axis.step) + 1):
        auc = axis.aucs[0] + number * axis.step
        if auc <= axis.aucs[1] + 1e-9:
            drawn += [
                _line(_LEFT, axis.y(auc), _RIGHT, axis.y(auc), "stroke:var(--line)"),
                _text(_LEFT - 8, axis.y(auc) + 4, f"{auc:.3f}", "end"),
            ]
    for epsilon in epsilons:
        drawn += [_line(axis.x(epsilon), _BOTTOM, axis.x(epsilon), _BOTTOM + 5, "stroke:var(--quiet)")]
        drawn += [_text(axis.x(epsilon), _BOTTOM + 20, f"{epsilon:g}", "middle")]
    drawn.append(_text((_LEFT + _RIGHT) / 2, _BOTTOM + 42, "ε of the whole run, smaller protects more (logarithmic)", "middle"))
    return drawn


def _reference(axis: _Axis, band: Band) -> list[Markup]:
    top, bottom, middle = axis.y(band.high), axis.y(band.low), axis.y(band.median)
    title = element("title", f"without privacy: AUC {band.median:.4f} ({band.low:.4f} to {band.high:.4f})")
    area = element(
        "rect",
        x=f"{_LEFT:g}",
        y=f"{top:g}",
        width=f"{_RIGHT - _LEFT:g}",
        height=f"{max(0.0, bottom - top):g}",
        style="fill:var(--quiet);opacity:.15",
    )
    line = _line(_LEFT, middle, _RIGHT, middle, "stroke:var(--ink-2);stroke-width:1.5;stroke-dasharray:6 5")
    marked = element("g", title, area, line, class_="reference", data_auc=repr(band.median))
    return [marked, _text(_LEFT + 6, middle - 6, "without privacy", "start")]


def _band(axis: _Axis, bands: Sequence[Band]) -> list[Markup]:
    """The band and the median; a single epsilon has a bar in place of an area."""
    places = [(axis.x(band.epsilon), band) for band in bands if band.epsilon is not None]
    upper = [f"{x:g},{axis.y(band.high):g}" for x, band in places]
    lower = [f"{x:g},{axis.y(band.low):g}" for x, band in reversed(places)]
    area = element("polygon", points=" ".join(upper + lower), style="fill:var(--accent);stroke:var(--accent);opacity:.18")
    line = element(
        "polyline",
        points=" ".join(f"{x:g},{axis.y(band.median):g}" for x, band in places),
        style="fill:none;stroke:var(--accent);stroke-width:2.5",
    )
    medians = [
        element(
            "rect", element("title", f"ε {band.epsilon:g}: median AUC {band.median:.4f} ({band.low:.4f} to {band.high:.4f})"),
            x=f"{x - 5:g}", y=f"{axis.y(band.median) - 1.5:g}", width="10", height="3", style="fill:var(--accent)", class_="median",
            data_epsilon=repr(band.epsilon), data_auc=repr(band.median), data_low=repr(band.low), data_high=repr(band.high),
        )
        for x, band in places
    ]  # fmt: skip
    return [area, line, *medians]


def _dot(axis: _Axis, dot: Dot, shift: float) -> Markup:
    """Seeds stand beside each other, so that none hides another."""
    title = element("title", f"seed {dot.seed}, ε {dot.epsilon:g}: AUC {dot.auc:.4f}")
    return element(
        "circle", title, cx=f"{axis.x(dot.epsilon) + shift:g}", cy=f"{axis.y(dot.auc):g}",
        r="4.5", style="fill:var(--paper);stroke:var(--accent);stroke-width:1.8", class_="point",
        data_seed=str(dot.seed), data_epsilon=repr(dot.epsilon), data_auc=repr(dot.auc),
    )  # fmt: skip


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return element("line", x1=f"{x1:g}", y1=f"{y1:g}", x2=f"{x2:g}", y2=f"{y2:g}", style=style)


def _text(x: float, y: float, words: str, anchor: str) -> Markup:
    return element("text", words, x=f"{x:g}", y=f"{y:g}", text_anchor=anchor, style=_LABEL)
