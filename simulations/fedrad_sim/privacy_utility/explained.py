"""The page's reading aid: what an epsilon lets an attacker do, its noise at each hospital, and what counting images would hide."""

import math

from fedrad_common.page.markup import Markup, element, note, section, table
from fedrad_server.report import words
from fedrad_sim.privacy_utility.outcome import Reading, Utility

_SOURCES = (
    "Measured through noise: the AUCs of the second picture, where there is one, from histograms that hospitals would really send.",
    "Computed, not measured: ε, δ, σ, the bounds on attacks and the cost of several images. They hold for any data.",
    "Not measured: how the model does at other hospitals or on other scanners, and whether a finding that few patients have suffers more.",
    "Not tuned: every ε is trained with the protocol's own settings, only the noise differs. Settings made for a small ε might do better.",
    (
        "Not for choosing and for claiming at once: whoever picks the ε whose AUC looks best has used these patients for the choice, and "
        "its AUC is a little too good. Score the chosen model once on patients that nothing was chosen by."
    ),
    "One run at one ε: a hospital's ledger adds up all runs, and its ceiling is for its lifetime.",
)

_SAME_START = "All seeds start from the same initial weights, those of the protocol: what another start would do is in no band."
_SAME_PATIENTS = (
    "All seeds share the patients of the imported arrays, of whom each makes its own hospitals and its own split. Their spread is that of "
    "splits, sampling and noise, and less than that of other patients would be."
)


def meaning(found: Utility) -> Markup:
    """For each epsilon the best attack that it leaves open, by (epsilon, delta) alone and by the plan's own noise."""
    rows = [
        (
            f"{epsilon:g}",
            f"{_up(math.exp(epsilon), 1):,}",
            f"{_percent(1 / (1 + math.exp(-epsilon)))}",
            _above(reading.by_epsilon.auc),
            _above(reading.by_epsilon.advantage),
            _above(reading.by_plan.auc),
            _above(reading.by_plan.advantage),
        )
        for epsilon, reading in _pairs(found)
    ]
    head = (
        "ε",
        "odds grow at most by",
        "an even guess becomes at most",
        "attack's AUC, by ε",
        "advantage, by ε",
        "attack's AUC, by this plan",
        "advantage, by this plan",
    )
    plan = found.readings[0].plan
    text = (
        f"Somebody holds everything that a hospital sent and wants to know whether one {found.unit} was in the training. Whatever they do "
        "and know besides, the odds that they give to “yes” grow by at most the factor e to the ε, up to the probability δ. An AUC of "
        "0.5, or an advantage (hits minus false alarms) of 0, is a coin."
    )
    epsilon, reading = _pairs(found)[len(found.epsilons) // 2]
    shortly = (
        f"At ε {epsilon:g}, who held it for an even chance may, but for δ, become {_percent(1 / (1 + math.exp(-epsilon)))} sure, and no "
        f"attack has an AUC above {_above(reading.by_epsilon.auc)}; with the noise of this plan, none above {_above(reading.by_plan.auc)}."
    )
    two = (
        "“By ε” holds for any noise that has this ε and δ. “By this plan” is what the noise of this very protocol leaves open; it is "
        f"smaller, because an ε is a worst case at one δ. Both are bounds for the strongest attacker, computed at {plan.site}, the "
        f"smallest hospital of seed {found.seeds[0]} (declared size {plan.declared_size:,}, δ = {words.delta(plan.delta)}); no attack was "
        "run."
    )
    return section(
        "meaning", _question(found), element("p", text), element("p", shortly), table(head, rows, numbers=range(1, 7)), note(two)
    )


def _question(found: Utility) -> str:
    """The section asks after the middle one of the epsilons."""
    return f"What does ε {found.epsilons[len(found.epsilons) // 2]:g} mean?"


def noise(found: Utility) -> Markup:
    """The noise multiplier of each hospital's own plan."""
    seed = found.seeds[0]
    plans = {epsilon: {plan.site: plan for plan in found.plans(epsilon, seed)} for epsilon in found.epsilons}
    first = plans[found.epsilons[0]]
    rows = [
        (site, f"{plan.declared_size:,}", f"{plan.sampling_rate:.3f}", words.delta(plan.delta),
         *(f"{plans[epsilon][site].noise_multiplier:.2f}" for epsilon in found.epsilons))
        for site, plan in first.items()
    ]  # fmt: skip
    head = ("hospital", "declared size", "drawn a step", "δ", *(f"σ for ε {epsilon:g}" for epsilon in found.epsilons))
    steps = next(iter(first.values())).steps
    text = (
        f"Each hospital works out its own noise at approval, from its declared size and the protocol's {steps:,} steps; these are the "
        f"plans that the hospitals of seed {seed} wrote. σ is the standard deviation of the noise over the most that one {found.unit} can "
        "add to a step."
    )
    return section("noise", "The noise that each ε needs", element("p", text), table(head, rows, numbers=range(1, len(head))))


def images(found: Utility) -> Markup:
    """What the same epsilon would be worth if it were promised to an image."""
    counts = [count for count, _ in found.readings[0].images]
    rows = [(f"{epsilon:g}", *(f"{cost:.1f}" for _, cost in reading.images)) for epsilon, reading in _pairs(found)]
    head = ("ε of one image", *(f"{count} images" for count in counts))
    if found.unit == "image":
        start = "These data name no patients, so ε is for one image, and somebody with several images is protected less:"
    else:
        start = (
            "Here ε is for a patient, however many images they have: all of them make one clipped vector a step. Had the same noise been "
            "accounted for by images, as training code often does, somebody with several images would really have"
        )
    plan = found.readings[0].plan
    how = (
        f"Group privacy at the same δ, by Rényi accounting of this plan at {plan.site}: the images are drawn and clipped each on its own, "
        "and a step's worst case is a Gaussian moved by a binomial number of clip norms. An upper bound, more than the images' number "
        "times ε."
    )
    return section(
        "images", "Several images of one patient", element("p", start), table(head, rows, numbers=range(1, len(head))), note(how)
    )


def sources(found: Utility) -> Markup:
    """What was measured, on whom, and what was not."""
    if found.held_out:
        scored = "Measured: the AUCs of the first picture, on invented patients of no hospital, whom no run trained on."
    else:
        scored = (
            "Measured: the AUCs of the first picture, on every hospital's own validation patients, whom no run trained on. A simulation "
            "may look at their scores one by one; hospitals may not, and no ledger was charged for it."
        )
    points = [scored, _SAME_START, *_SOURCES]
    if not found.held_out:
        points.insert(1, _SAME_PATIENTS)
    if found.unit == "image":
        points.append("Several images may be one child's, and the intervals take them as different ones.")
    return section("sources", "Where these numbers come from", element("ul", *(element("li", point) for point in points)))


def _pairs(found: Utility) -> list[tuple[float, Reading]]:
    return list(zip(found.epsilons, found.readings, strict=True))


def _above(bound: float) -> str:
    """A bound, rounded up to four digits: 0.9997 is not yet certainty."""
    return f"{min(1.0, _up(bound, 4)):.4f}"


def _percent(share: float) -> str:
    return f"{min(100.0, _up(100 * share, 2)):.2f} %"


def _up(value: float, digits: int) -> float:
    scale = math.pow(10, digits)
    return math.ceil(value * scale - 1e-9) / scale
