"""The report of a run as one HTML page: which parts, in which order, from the records alone."""

from collections.abc import Sequence

from fedrad_common.page import document
from fedrad_common.page.markup import Content, Markup, element, join
from fedrad_server.report import conduct, results, words
from fedrad_server.report.inputs import ReportInput
from fedrad_server.report.privacy import site_privacy

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
    figures = {name: spec for part in shown.values() for name, spec in part.figures.items()}
    return document(f"{title_of(values)} · fedrad report", body, figures)


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
