"""What all drawings of a page share, as plain plotly specifications; colours are names that the style sheet resolves, light or dark."""

import html
from typing import Any

Spec = dict[str, Any]
QUIET, INK, ACCENT, LINE = "var(--quiet)", "var(--ink)", "var(--accent)", "var(--line)"


def base_layout(*, x: str, y: str, height: int) -> Spec:
    axis = {"gridcolor": LINE, "zeroline": False, "linecolor": LINE, "tickcolor": LINE, "automargin": True, "fixedrange": True}
    return {
        "height": height, "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "margin": {"l": 52, "r": 12, "t": 12, "b": 48},
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "var(--ink-2)"}, "hovermode": "closest", "dragmode": False,
        "hoverlabel": {"bgcolor": "var(--paper)", "bordercolor": LINE, "font": {"color": INK}},
        "xaxis": {**axis, "title": {"text": x, "standoff": 10, "font": {"size": 13}}},
        "yaxis": {**axis, "title": {"text": y, "standoff": 8, "font": {"size": 13}}},
        "legend": {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0, "font": {"size": 12}},
    }  # fmt: skip


def plain_name(name: str) -> str:
    """Plotly reads a small HTML of its own in texts: links and bold from a hostile name stay letters."""
    return html.escape(name, quote=False)
