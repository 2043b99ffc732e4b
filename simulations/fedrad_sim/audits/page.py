"""All audits as one page that loads nothing: what each did, what it found beside the claim, and what it cannot show."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Sequence
from importlib.resources import files

from fedrad_common.page import document
from fedrad_common.page.drawing import Spec
from fedrad_common.page.markup import Markup, element, figure, join, note, section, table
from fedrad_sim.audits import drawings
from fedrad_sim.audits.finding import Arm, Finding

_LEAD = (
    "Each audit attacks the code that sites run, under a plan that a site's own accountant made. The account says how much one patient can "
    "be worth at most; an attack shows how much one was worth at least. An audit can therefore prove a claim wrong, and never right."
)
_CURVES = "False alarms and finds of every threshold, beside the most that the claim permits anyone. Dashed lines are controls."


@functools.cache
def words() -> dict[str, dict[str, str]]:
    return tomllib.loads((files("fedrad_sim.audits") / "words.toml").read_text())


def page(findings: Sequence[Finding]) -> str:
    """The same findings give the same bytes."""
    figures: dict[str, Spec] = {}
    parts = [_section(finding, figures) for finding in findings]
    links = element("nav", *(element("a", words()[finding.audit]["title"], href=f"#{finding.audit}") for finding in findings))
    head = element("header", element("p", "fedrad · audits", class_="eyebrow"), element("h1", "Privacy audits"), _banner(findings), links)
    summary = section("summary", "In short", element("p", _LEAD, class_="lead"), _summary(findings))
    body = join([head, element("main", summary, *parts), element("footer", "Made by fedrad-sim audit. It loads nothing from any network.")])
    return document("Privacy audits · fedrad", body, figures)


def _banner(findings: Sequence[Finding]) -> Markup | None:
    faults = [f"{finding.audit}, {arm.name}, {arm.verdict}: {arm.says}" for finding in findings for arm in finding.faults]
    return element("p", "Not as it should be. " + ". ".join(faults), class_="banner", role="alert") if faults else None


def _summary(findings: Sequence[Finding]) -> Markup:
    rows = [
        (words()[finding.audit]["title"], _named(arm), f"{finding.epsilon:g}", arm.says) for finding in findings for arm in finding.arms
    ]
    return table(("audit", "arm", "ε claimed", "found"), rows, numbers=(2,))


def _section(finding: Finding, figures: dict[str, Spec]) -> Markup:
    said = words()[finding.audit]
    settings = ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in finding.settings.items())
    facts = f"Claim: ε {finding.epsilon:g} at δ {finding.delta:.1e}, per {finding.unit}. {settings}; {finding.seconds:.0f} s."
    body = [element("p", said["does"]), element("p", said["reads"]), *_drawn(finding, figures)]
    body += [_figures(finding.arms), note("Control. " + said["control"]), note("Limits. " + said["limits"]), note(facts)]
    return section(finding.audit, said["title"], *body)


def _figures(arms: Sequence[Arm]) -> Markup:
    keys = list(dict.fromkeys(key for arm in arms for key in arm.figures))
    rows = [(key, *(f"{arm.figures[key]:.4g}" if key in arm.figures else "–" for arm in arms)) for key in keys]
    head = ("figure", *(_named(arm) for arm in arms))
    return table(head, rows, numbers=range(1, len(head)))


def _drawn(finding: Finding, figures: dict[str, Spec]) -> list[Markup]:
    def draw(name: str, spec: Spec, caption: str) -> Markup:
        figures[f"{finding.audit}-{name}"] = spec
        return figure(f"{finding.audit}-{name}", caption, label=caption)

    placed: list[Markup] = []
    if finding.audit in ("two-worlds", "one-run"):
        limits = [key for key in dict.fromkeys(key for arm in finding.arms for key in arm.figures) if key.endswith("%")]
        caption = f"Lower limits of ε of each arm. Right of the line is above the claim; {drawings.EDGE} claims and more are at the edge."
        placed.append(draw("limits", drawings.limits(finding.arms, limits, finding.epsilon), caption))
    scores = [(number, arm) for number, arm in enumerate(finding.arms) if "score" in arm.drawn]
    if scores:
        drawn = (draw(f"scores-{number}", drawings.histograms(arm), f"{_named(arm)}: what the attacker saw.") for number, arm in scores)
        placed.append(element("div", *drawn, class_="pair"))
    for number, arm in enumerate(arm for arm in finding.arms if "claim hits" in arm.drawn):
        controls = [other for other in finding.arms if other.control and "hits" in other.drawn and other.of in ("", arm.name)]
        spec = drawings.trade_off([arm, *controls], permitted=arm, logarithmic=finding.audit == "membership")
        placed.append(draw(f"curve-{number}", spec, _CURVES))
    return placed + [_gallery(arm) for arm in finding.arms if arm.pictures]


def _named(arm: Arm) -> str:
    return f"{arm.name} (control)" if arm.control else arm.name


def _gallery(arm: Arm) -> Markup:
    """One row of pictures a name, all of one width."""

    def shown(name: str, pictures: Sequence[str]) -> tuple[Markup | str, ...]:
        return (name, *(element("img", src=uri, alt=f"{name} {number}", width="84") for number, uri in enumerate(pictures, start=1)))

    columns = max(len(pictures) for pictures in arm.pictures.values())
    caption = _named(arm)
    return table(("", *[""] * columns), [shown(name, pictures) for name, pictures in arm.pictures.items()], caption=caption)
