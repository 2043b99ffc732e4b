"""What this site promises its patients, with its own figures: the page that a data-protection officer reads and signs.

The words are in statement.toml, and docs/privacy.md says them too; the figures come from ledger, approvals and settings.
"""

from __future__ import annotations

import functools
import tomllib
from datetime import datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fedrad_client.privacy.account import opening_of
from fedrad_client.privacy.ledger import KIND, in_force
from fedrad_client.privacy.ledger_page import drawing, shown
from fedrad_client.privacy.overview import facts as ledger_facts
from fedrad_client.privacy.overview import percent
from fedrad_common.chain import read, utc_now

if TYPE_CHECKING:
    from fedrad_client.site import Home
    from fedrad_common.page.drawing import Spec


@functools.cache
def spoken() -> dict[str, Any]:
    """`promise` and `limits`, lists of paragraphs; `words`, what each term means."""
    return tomllib.loads(files("fedrad_client.privacy").joinpath("statement.toml").read_text(encoding="utf-8"))


def facts(home: Home, now: datetime | None = None) -> dict[str, Any]:
    """Everything that the page shows. No count of patients: only what was declared."""
    from fedrad_client.site import LEDGER

    config = home.config
    entries = read(home.path / LEDGER, KIND)
    opening = in_force(opening_of(entries[0]), config.privacy)
    return {
        "site": opening.site,
        "printed": f"{now or utc_now():%Y-%m-%d %H:%M} UTC",
        "ledger": ledger_facts(opening, entries),
        "total": {"epsilon": opening.epsilon + opening.earlier_epsilon, "delta": opening.delta + opening.earlier_delta},
        "validation_fraction": opening.validation_fraction,
        "policy": config.policy.model_dump(mode="json"),
        "protocols": [_protocol(home, name) for name in home.approvals],
        "filter": drawing(opening, entries),
    }


def _protocol(home: Home, name: str) -> dict[str, Any]:
    found = home.approved(name)
    assert found is not None
    protocol, plan = found
    return {
        "name": protocol.name,
        "hash": protocol.hash,
        "unit": protocol.privacy.unit,
        "declared_size": plan.declared_size,
        "epsilon": plan.epsilon,
        "noise_multiplier": plan.noise_multiplier,
        "sampling_rate": plan.sampling_rate,
        "max_images": protocol.privacy.max_images,
        "slot_seconds": protocol.rounds.slot_seconds,
    }


def figures(value: dict[str, Any]) -> list[tuple[str, str]]:
    """The site's own numbers, as label and text."""
    ledger, ceiling, total = value["ledger"], value["ledger"]["ceiling"], value["total"]
    bound = "" if ledger["bound"] else ", NO BOUND"
    rows = [
        ("ceiling", f"ε {ceiling['epsilon']:g} at δ {ceiling['delta']:.3g}, per patient, over the site's lifetime"),
        ("reserved so far", f"{percent(ledger['share'])} of the filter, ε {ledger['reserved']:.3f}{bound}"),
        ("had it been fixed in advance", f"ε {shown(ledger['in_advance'])} (PRV, upper)"),
        ("validation patients", f"ε {ledger['validation']['reserved']:.3f} of {ledger['validation']['ceiling']:g}, never trained on"),
        ("share of patients who validate", f"{value['validation_fraction']:.0%}"),
        ("δ charged for arithmetic", f"{ledger['numeric_delta']:.3g} of {ceiling['numeric_delta']:.3g} set aside"),
        ("a patient who is also at a second site", f"ε {total['epsilon']:g} and δ {total['delta']:.3g}, plus that site's own"),
    ]  # fmt: skip
    if ceiling["earlier_epsilon"]:
        rows.append(("lost ledgers", f"ε {ceiling['earlier_epsilon']:g} is assumed spent; with it the total is ε {total['epsilon']:g}"))
        rows.append(("validation patients of lost ledgers", f"ε {ceiling['earlier_validation_epsilon']:g} is assumed spent"))
    for row in ledger["marked"]:
        rows.append(("release without a bound", f"{row['run']}: {row['concerns']} patients, {row['why']}"))
    rows += [(f"protocol {protocol['name']}", _in_words(protocol)) for protocol in value["protocols"]]
    return [*rows, ("ledger head", ledger["head"]), ("site identity", ledger["identity"])]


def _in_words(protocol: dict[str, Any]) -> str:
    slot = protocol["slot_seconds"]
    leaves = f"at multiples of {slot:g} s; longer work shows in how many" if slot else "when they are ready: timing is not covered"
    images = f"at most {protocol['max_images']} images of a patient a step"
    epsilon = "no privacy, no bound" if protocol["epsilon"] is None else f"ε {shown(protocol['epsilon'])} per {protocol['unit']}"
    return f"{epsilon}, declared size {protocol['declared_size']}, {images}; replies leave {leaves}"


def lines(value: dict[str, Any]) -> list[str]:
    import textwrap

    def paragraph(text: str, indent: str = "  ") -> list[str]:
        return textwrap.wrap(text, width=110, initial_indent=indent, subsequent_indent=indent)

    rows = [f"privacy statement of {value['site']}, printed {value['printed']}", "", "What is promised"]
    rows += [line for text in spoken()["promise"] for line in paragraph(text)]
    rows += ["", "This site's figures"]
    rows += [line for label, text in figures(value) for line in [f"  {label}", *paragraph(text, "    ")]]
    rows += ["", "What the words mean"]
    rows += [line for label, text in spoken()["words"].items() for line in [f"  {label}", *paragraph(text, "    ")]]
    rows += ["", "Limits", *(line for text in spoken()["limits"] for line in paragraph(text))]
    return [*rows, "", "Read and accepted: ______________________________   Date: ______________"]


def statement_page(value: dict[str, Any]) -> str:
    from fedrad_common.page import document
    from fedrad_common.page.markup import element, figure, join, section, table

    header = element(
        "header",
        element("p", "fedrad · privacy statement", class_="eyebrow"),
        element("h1", value["site"]),
        element("p", f"Printed {value['printed']}. Its words are the same at every site; its figures are this site's own."),
        None if value["ledger"]["bound"] else element("p", "No bound: patients were trained on without privacy here.", class_="banner"),
    )
    promise = section("promise", "What is promised", *(element("p", text) for text in spoken()["promise"]))
    own = section(
        "own-figures",
        "This site's figures",
        table(["", ""], [[label, text] for label, text in figures(value)]),
        figure("filter", "Share of the filter that is reserved; it never falls.", label="share of the filter reserved, by time"),
    )
    words = section("words", "What the words mean", table(["", ""], [[label, text] for label, text in spoken()["words"].items()]))
    limits = section("limits", "Limits", element("ul", *(element("li", text) for text in spoken()["limits"])))
    signature = section("signature", "Signature", element("p", "Read and accepted: ____________________________ Date: ______________"))
    specs: dict[str, Spec] = {"filter": value["filter"]}
    return document(f"{value['site']} · privacy statement", join([header, element("main", promise, own, words, limits, signature)]), specs)
