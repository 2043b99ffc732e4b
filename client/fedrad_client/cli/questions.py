"""What `fedrad-site init` asks on a terminal; each question is an option, too, and without a terminal nothing is asked."""

import sys
from decimal import ROUND_DOWN, Decimal

import typer

from fedrad_common.errors import FedradError, MisuseError

EPSILON, DELTA, SIZE = 10.0, 1e-5, 10_000
LARGE = 20.0  # epsilon, beyond which a person is asked once more


def ask(option: str, question: str) -> str:
    """Raises MisuseError, which names the option, where nobody sits at a terminal."""
    if not sys.stdin.isatty():
        raise MisuseError(f"missing option '{option}'", hint="see 'fedrad-site init --help'")
    return str(typer.prompt(question, err=True)).strip()


def budget(epsilon: float | None, delta: float | None, declared_size: int | None, *, ask: bool) -> tuple[float, float]:
    """Epsilon and delta for the site's lifetime, delta from the most patients that will ever be declared.

    Raises:
        FedradError: a large epsilon was not meant. MisuseError: delta is too large for the declared size, or that is no number of patients.
    """
    ask = ask and sys.stdin.isatty()
    if delta is None and declared_size is None and ask:
        question = "the most patients that you will ever declare (delta follows from it)"
        declared_size = int(typer.prompt(question, default=SIZE, type=int, err=True))
    if epsilon is None:
        question = "epsilon: privacy ceiling per patient, for the site's lifetime"
        epsilon = float(typer.prompt(question, default=EPSILON, type=float, err=True)) if ask else EPSILON
    doubt = f"epsilon {epsilon:g}: above {LARGE:g} it promises a patient little. Is that meant?"
    if epsilon > LARGE and ask and not typer.confirm(doubt, err=True):
        raise FedradError("not confirmed: nothing was made")
    if declared_size is None:
        return epsilon, DELTA if delta is None else delta
    if declared_size < 1:
        raise MisuseError(f"--declared-size: {declared_size} is no number of patients")
    if delta is not None and delta > (1 + 1e-9) / (10 * declared_size):
        raise MisuseError(
            f"--delta: {delta:g} is above 1 / (10 × {declared_size})", hint="leave it out: it follows from the declared size, for good"
        )
    return epsilon, delta_for(declared_size) if delta is None else delta


def delta_for(declared_size: int) -> float:
    """1 / (10 N), rounded down to one digit."""
    exact = Decimal(1) / (10 * Decimal(declared_size))
    return float(exact.quantize(Decimal(1).scaleb(exact.adjusted()), rounding=ROUND_DOWN))


def most(delta: float) -> int:
    """The most patients that may be declared with this delta."""
    return int(1 / (10 * delta) * (1 + 1e-9))
