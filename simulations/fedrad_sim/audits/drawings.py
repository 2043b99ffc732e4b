"""The audits' drawings, as plain plotly specifications in the page's colours: dashed is a control, dotted what is permitted."""

from __future__ import annotations

import io
from collections.abc import Sequence

from fedrad_common.page.drawing import ACCENT, INK, QUIET, Spec, base_layout
from fedrad_sim.audits.finding import Arm

SECOND = "var(--series-2)"
EDGE = 2  # times the claim: a control far beyond would press all else against the left


def histograms(arm: Arm) -> Spec:
    """How often each score was seen, without and with the canary."""
    data = [
        {"type": "bar", "name": name, "x": list(arm.drawn["score"]), "y": list(arm.drawn[key]), "opacity": 0.65,
         "marker": {"color": colour}, "hovertemplate": "%{x:.2f}: %{y:.0f}<extra>" + name + "</extra>"}
        for key, name, colour in (("out", "without the patient", QUIET), ("in", "with the patient", ACCENT))
    ]  # fmt: skip
    return {"data": data, "layout": base_layout(x="the attacker's score", y="count", height=300) | {"barmode": "overlay", "bargap": 0.02}}


def trade_off(arms: Sequence[Arm], *, permitted: Arm, logarithmic: bool = False) -> Spec:
    """What attacks reached, and the line that none may cross for long where the claim holds."""
    data = [_line(permitted.drawn["claim alarms"], permitted.drawn["claim hits"], "the most that the claim permits", INK, "dot")]
    colours = (ACCENT, SECOND)
    for arm in arms:
        name = f"{arm.name} (control)" if arm.control else arm.name
        data.append(_line(arm.drawn["alarms"], arm.drawn["hits"], name, colours[arm.control], "dash" if arm.control else "solid"))
    chance = _line((0.0001, *(step / 50 for step in range(1, 51))), (0.0001, *(step / 50 for step in range(1, 51))), "chance", QUIET, "dot")
    layout = base_layout(x="false alarms", y="found", height=400)
    for axis in ("xaxis", "yaxis"):
        layout[axis] |= {"type": "log", "range": [-3, 0]} if logarithmic else {"range": [-0.01, 1.01], "dtick": 0.25}
    return {"data": [chance, *data], "layout": layout}


def limits(arms: Sequence[Arm], keys: Sequence[str], claim: float) -> Spec:
    """Each arm's lower limits on epsilon as dots beside the claim; what is far above it stands at the edge, its value in the hover."""
    names = [f"{arm.name} (control)" if arm.control else arm.name for arm in arms]
    symbols = ("circle", "diamond", "square", "cross")
    data: list[Spec] = [
        {"type": "scatter", "mode": "markers", "name": key, "y": names,
         "x": [min(arm.figures[key], EDGE * claim) for arm in arms], "customdata": [arm.figures[key] for arm in arms],
         "marker": {"size": 11, "symbol": symbol, "color": [SECOND if arm.control else ACCENT for arm in arms]},
         "hovertemplate": "ε ≥ %{customdata:.2f}<extra>" + key + "</extra>"}
        for key, symbol in zip(keys, symbols, strict=False)
    ]  # fmt: skip
    data.append(_line((claim, claim), (names[0], names[-1]), f"the claim, {claim:g}", INK, "dot"))
    layout = base_layout(x="lower limit of ε", y="", height=150 + 36 * len(names))
    layout["xaxis"]["rangemode"] = "tozero"
    layout["yaxis"] |= {"categoryorder": "array", "categoryarray": names[::-1], "showgrid": False}
    layout["legend"]["y"] = -0.35
    return {"data": data, "layout": layout}


def picture(pixels: object, *, times: int = 3) -> str:
    """A data URI of one image, (H, W) in [0, 1], each pixel enlarged."""
    import base64

    import numpy as np
    from PIL import Image

    grey = (np.clip(np.asarray(pixels, dtype=np.float64), 0, 1) * 255).round().astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(grey.repeat(times, 0).repeat(times, 1)).save(stream, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _line(x: Sequence[float], y: Sequence[float] | Sequence[str], name: str, colour: str, dash: str) -> Spec:
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": list(x), "y": list(y),
        "line": {"color": colour, "width": 2 if dash != "dot" else 1.5, "dash": dash}, "hovertemplate": "%{x:.3f}, %{y:.3f}",
    }  # fmt: skip
