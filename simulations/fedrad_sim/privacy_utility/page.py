"""The sweep as one self-contained page for a hospital that decides which epsilon to accept: no script, nothing from any network."""

from fedrad_common.page import document
from fedrad_common.page.markup import Content, Markup, element, join, note, section, table
from fedrad_server.report import words
from fedrad_sim.privacy_utility import drawing, explained
from fedrad_sim.privacy_utility.outcome import Band, Kind, Loss, Utility

_SEEDED = (
    "Seeded noise. Everything here was simulated with reproducible noise: the numbers hold, the privacy of these runs does not. Every ε "
    "is what the same run would cost with fresh noise."
)


def page(found: Utility) -> str:
    """The whole document. The same values give the same bytes."""
    title = found.scenario.title or found.scenario.name
    header = element(
        "header",
        element("p", "fedrad · privacy and utility", class_="eyebrow"),
        element("h1", title),
        element("dl", *(element("div", element("dt", name), element("dd", value)) for name, value in _about(found))),
        element("p", _SEEDED, class_="banner", role="note"),
    )
    parts = [_short(found), _curve(found), *_release(found), explained.meaning(found), explained.noise(found), explained.images(found)]
    main = element("main", *parts, explained.sources(found))
    footer = element("footer", "Made by fedrad-sim privacy-utility. The same numbers are in privacy-utility.json and privacy-utility.csv.")
    return document(f"{title} · privacy and utility", join([header, main, footer]), {})


def _about(found: Utility) -> list[tuple[str, Content]]:
    return [
        ("protocol", found.protocol.name),
        ("protocol hash", element("code", found.protocol.hash[:16])),
        ("label", found.scenario.label),
        ("unit", found.unit),
        ("seeds", ", ".join(f"{seed}" for seed in found.seeds)),
        ("scored on", _scored_on(found)),
    ]


def _scored_on(found: Utility) -> str:
    of = "patients of no hospital" if found.held_out else "the hospitals' validation patients"
    counts = sorted({point.n_patients for point in found.points})
    many = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    return f"{many} {of}" if found.unit == "patient" else f"{many} images of {of}"


def _short(found: Utility) -> Markup:
    bands, reference = found.curve("scored"), found.reference("scored")
    said = []
    for band in bands:
        assert band.epsilon is not None
        loss = found.loss(band.epsilon, "scored")
        below = f", {_with_range(loss)} below the same seed without privacy" if loss else ""
        said.append(f"At ε {band.epsilon:g} the federated model reached an AUC of {_with_band(band)}{below}.")
    if reference is not None:
        said.append(f"Without privacy it reached {_with_band(reference)}.")
    if not bands:
        said.append("No AUC could be computed: those who were scored are of one class only.")
    said.append("Which ε is acceptable is the hospital's decision; this page shows both sides of it.")
    return section("summary", "In short", element("p", " ".join(said), class_="lead"))


def _curve(found: Utility) -> Markup:
    caption = (
        "A circle is one seed: its own hospitals, splits, sampling and noise. The line joins the medians. The band reaches from the "
        f"lowest to the highest end of the seeds' 95 % intervals, which resample whole {found.unit}s; it is no interval itself, and bands "
        "that overlap do not mean that there is no difference. All ε of a seed are scored on the same patients: the table compares them "
        "seed by seed. Dashed: without clip and noise, by the scenario's settings for that."
    )
    return section("curve", "AUC against ε", *_picture(found, "scored", caption), _table(found, "scored"))


def _release(found: Utility) -> list[Markup]:
    """What the hospitals' own, noised histograms would have shown, where the protocol releases any."""
    if not found.curve("released"):
        return []
    last = found.protocol.evaluation.rounds[-1]
    noised = found.protocol.evaluation.release == "noised"
    how = f"with noise for ε {found.protocol.evaluation.epsilon:g} on the validation patients' own line" if noised else "exact, and marked"
    caption = (
        f"The same runs, seen as a federation sees itself: score histograms of each hospital's validation patients after round {last}, "
        f"{how}, pooled. The band takes patients as units and includes the noise of the release; it is wider because less is known. A "
        "figure may be missing where too few patients stand above the noise."
    )
    return [section("release", "What the hospitals would see themselves", *_picture(found, "released", caption), _table(found, "released"))]


def _picture(found: Utility, kind: Kind, caption: str) -> list[Markup]:
    bands = found.curve(kind)
    if not bands:
        return []
    dots = [
        drawing.Dot(point.seed, point.epsilon, estimate.auc)
        for point in found.points
        if point.epsilon is not None and (estimate := getattr(point, kind)) is not None
    ]
    picture = drawing.curve(bands, dots, found.reference(kind), name=f"{kind}-curve", label="AUC against epsilon")
    return [element("figure", picture, element("figcaption", caption))]


def _table(found: Utility, kind: Kind) -> Markup:
    """Every number of the picture."""
    reference = found.reference(kind)
    each = {(point.epsilon, point.seed): getattr(point, kind) for point in found.points}
    rows = []
    for band in (*found.curve(kind), *([reference] if reference else [])):
        loss = None if band.epsilon is None else found.loss(band.epsilon, kind)
        lost = words.DASH if loss is None else _with_range(loss)
        seeds = (each.get((band.epsilon, seed)) for seed in found.seeds)
        name = "none" if band.epsilon is None else f"{band.epsilon:g}"
        rows.append((name, _with_band(band), lost, *(words.DASH if one is None else f"{one.auc:.3f}" for one in seeds)))
    head = ("ε", "AUC, median (band)", "below no privacy, seed by seed: median (range)", *(f"seed {seed}" for seed in found.seeds))
    return join(
        [table(head, rows, numbers=range(1, len(head))), note("ε is what the protocol asks, for the whole run, at every hospital.")]
    )


def _with_band(band: Band) -> str:
    return words.with_interval(band.median, (band.low, band.high))


def _with_range(loss: Loss) -> str:
    return words.with_interval(loss.median, (loss.low, loss.high))
