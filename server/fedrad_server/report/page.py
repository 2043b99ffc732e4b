"""One self-contained HTML page: own style, plotly inlined once, and a content policy that lets nothing in from any network."""

import base64
import hashlib
import json
from collections.abc import Sequence

from fedrad_server.report import conduct, results, words
from fedrad_server.report.inputs import ReportInput
from fedrad_server.report.markup import Content, Markup, element, join, text
from fedrad_server.report.privacy import site_privacy
from fedrad_server.report.results import Part
from fedrad_server.report.style import CSS, SCRIPT

_SEEDED = (
    "Seeded noise. This run was simulated with reproducible noise: its numbers hold, its privacy does not. "
    "Every ε below is what the same run would cost with fresh noise."
)
_NAMES = {
    "summary": "in short", "comparison": "comparison", "convergence": "convergence", "curves": "ROC and reliability", "privacy": "privacy",
    "participation": "participation", "departures": "what left", "limits": "what this does not show", "protocol": "protocol",
    "records": "records",
}  # fmt: skip


def page(values: ReportInput) -> str:
    """The whole document. The same values give the same bytes."""
    lines = site_privacy(values)
    parts = {
        "summary": results.summary(values, lines),
        "comparison": results.comparison(values),
        "convergence": results.convergence(values),
        "curves": results.curves(values),
        "privacy": conduct.privacy(values, lines),
        "participation": conduct.participation(values),
        "departures": conduct.departures(values),
        "limits": conduct.limits(values, lines),
        "protocol": conduct.protocol(values),
        "records": conduct.records(values),
    }
    shown = {name: part for name, part in parts.items() if part.markup.html}
    body = join([_header(values, list(shown)), element("main", *(part.markup for part in shown.values())), _footer(values)])
    return _document(title_of(values), body, list(shown.values()))


def title_of(values: ReportInput) -> str:
    return values.protocol.title or values.protocol.name


def _header(values: ReportInput, shown: Sequence[str]) -> Markup:
    facts: list[tuple[str, Content]] = [
        ("protocol", values.protocol.name),
        ("protocol hash", element("code", values.protocol.hash[:16])),
        ("run", element("code", values.launch.run)),
        ("launched", values.launch.created.replace("T", " ").replace("+00:00", " UTC")),
        ("state", values.state),
        ("sites", f"{len(values.sites)}"),
        ("unit", "none (no privacy)" if values.protocol.privacy.unit == "none" else values.unit),
    ]
    described = element("dl", *(element("div", element("dt", name), element("dd", value)) for name, value in facts))
    links = element("nav", *(element("a", _NAMES[name], href=f"#{name}") for name in shown), aria_label="sections")
    banner = element("p", _SEEDED, class_="banner", role="note") if values.seeded else None
    return element(
        "header", element("p", "fedrad · run report", class_="eyebrow"), element("h1", title_of(values)), described, banner, links
    )


def _footer(values: ReportInput) -> Markup:
    version = values.launch.versions.get("fedrad", "")
    made = "Made from the run's records alone, by fedrad" + (f" {version}" if version else "") + "."
    return element("footer", f"{made} It loads nothing from any network. {words.count(len(values.envelopes), 'accepted answer')}.")


def _document(title: str, body: Markup, parts: Sequence[Part]) -> str:
    from plotly.offline import get_plotlyjs

    figures = {name: spec for part in parts for name, spec in part.figures.items()}
    scripts = [get_plotlyjs(), SCRIPT] if figures else []
    allowed = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts) or "'none'"
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    # In a JSON block no "<" may stand: the parser of HTML would see a tag's end before the one of JSON sees a string.
    data = json.dumps(figures, allow_nan=False, ensure_ascii=True, sort_keys=True).replace("<", "\\u003c").replace("&", "\\u0026")
    loaded = "".join(f"<script>{script}</script>\n" for script in scripts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{text(title)} · fedrad report</title>\n<style>{CSS}</style>\n</head>\n<body>\n{body.html}\n"
        f'<script type="application/json" id="figures">{data}</script>\n{loaded}</body>\n</html>\n'
    )
