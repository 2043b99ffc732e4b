"""The ledger as a page for people: how the filter filled up, run by run, and every release without a bound."""

from collections.abc import Sequence
from typing import Any

from fedrad_client.privacy.account import Opening
from fedrad_client.privacy.overview import NOT_COVERED, facts, history, percent
from fedrad_common.chain import Entry
from fedrad_common.page import document
from fedrad_common.page.drawing import ACCENT, QUIET, Spec, base_layout
from fedrad_common.page.markup import Content, Markup, element, figure, join, note, section, table


def ledger_page(opening: Opening, entries: Sequence[Entry]) -> str:
    value = facts(opening, entries)
    body = join(
        [
            element("header", element("p", "fedrad · privacy ledger", class_="eyebrow"), element("h1", opening.site), _tiles(value)),
            element("main", *_alarms(value), _filter(), _runs(value), _marked(value), _records(value)),
        ]
    )
    return document(f"{opening.site} · privacy ledger", body, {"filter": drawing(opening, entries)})


def drawing(opening: Opening, entries: Sequence[Entry]) -> Spec:
    """Share of the filter that is reserved, by time, as steps; the ceiling as a line at 1."""
    moments = history(opening, entries)
    times = [at for at, _ in moments] + [entries[-1].at]
    shares = [reserved for _, reserved in moments] + [moments[-1][1]]
    layout = base_layout(x="", y="share of the filter", height=320)
    layout["yaxis"] |= {"range": [0, 1.05], "tickformat": ".0%"}
    layout["shapes"] = [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1, "line": {"color": QUIET, "dash": "dot"}}]
    layout["showlegend"] = False
    steps = {
        "type": "scatter", "mode": "lines+markers", "x": times, "y": shares, "line": {"shape": "hv", "color": ACCENT, "width": 2},
        "hovertemplate": "%{x}: %{y:.1%} reserved<extra></extra>",
    }  # fmt: skip
    return {"data": [steps], "layout": layout}


def shown(epsilon: float | None) -> str:
    return "no bound" if epsilon is None else f"{epsilon:.3f}"


def _tiles(value: dict[str, Any]) -> Markup:
    ceiling = value["ceiling"]
    tiles = (
        ("ceiling, whatever happens", f"ε {ceiling['epsilon']:g}", f"at δ {ceiling['delta']:.3g}, per patient, for the site's lifetime"),
        ("reserved", percent(value["share"]), f"of the filter; ε {value['reserved']:.3f}"),
        ("had it been fixed in advance", f"ε {shown(value['in_advance'])}", "PRV, upper bound, all runs together"),
        ("validation patients", f"ε {value['validation']['reserved']:.3f}", f"of {value['validation']['ceiling']:g}, never trained on"),
    )
    return element(
        "div",
        *(
            element("div", element("span", name, class_="name"), element("strong", number), element("small", words), class_="tile")
            for name, number, words in tiles
        ),
        class_="tiles",
    )


def _alarms(value: dict[str, Any]) -> list[Markup]:
    said = []
    if not value["bound"]:
        said.append("No bound: patients were trained on without privacy here. No number on this page bounds what that revealed, for ever.")
    if value["contradicted"]:
        said.append("Stopped: somebody holds an answer that this ledger does not know. It is an older copy, or the site was cloned.")
    if value["ceiling"]["earlier_epsilon"]:
        said.append(
            f"An earlier ledger was lost: its ε of {value['ceiling']['earlier_epsilon']:g} is assumed spent, on top of this one, "
            f"and ε {value['ceiling']['earlier_validation_epsilon']:g} of its validation patients."
        )
    if value["assumed_spent"]:
        said.append("This ledger replaced a lost one and allows nothing more.")
    return [element("p", text, class_="banner", role="alert") for text in said]


def _filter() -> Markup:
    caption = "What is reserved never falls: a run is reserved whole at its first order, and nothing is refunded."
    return section("filter", "How the filter filled up", figure("filter", caption, label="share of the filter reserved, by time"))


def _runs(value: dict[str, Any]) -> Markup:
    head = ["run", "protocol", "ε (PRV)", "noise", "sampling rate", "steps", "charged again"]
    rows: list[list[Content]] = [
        [run["run"], element("code", run["protocol"][:16]), shown(run["epsilon"]), f"{run['noise_multiplier']:g}",
         f"{run['sampling_rate']:.3g}", run["steps"], run["steps_again"]]
        for run in value["runs"]
    ]  # fmt: skip
    what = table(head, rows, numbers=(2, 3, 4, 5, 6)) if rows else element("p", "None yet.")
    return section("runs", "Runs", what, note(NOT_COVERED))


def _marked(value: dict[str, Any]) -> Markup:
    rows: list[list[Content]] = [[row["run"], row["concerns"], row["why"]] for row in value["marked"]]
    what = table(["run", "patients", "why there is no bound"], rows) if rows else element("p", "None: every release has a bound.")
    return section("marked", "Releases without a bound", what)


def _records(value: dict[str, Any]) -> Markup:
    ceiling = value["ceiling"]
    rows: list[list[Content]] = [
        ["answers", f"{value['answers']}, of which {value['repeated']} charged beyond their run"],
        ["Rényi order", f"{ceiling['order']:g}"],
        ["δ for arithmetic", f"{value['numeric_delta']:.3g} charged of {ceiling['numeric_delta']:.3g} set aside"],
        ["site identity", element("code", value["identity"])],
        ["head", element("code", value["head"])],
    ]
    return section("records", "Records", table(["", ""], rows), note("Write the head down: on paper it is a witness."))
