"""`fedrad-sim audit`: attack our own training, and hold what that proves against what the account claims."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrad_common.cli import emit
from fedrad_common.errors import FedradError, MisuseError
from fedrad_sim.audits.defaults import CANDIDATES, CLAIM, MODELS, REPEATS, RUNS, SIDE, SMALL_CLAIM

if TYPE_CHECKING:
    from fedrad_sim.audits.finding import Finding

app = typer.Typer(help="Attack our own training, each time with a control that shows that the attack works.", no_args_is_help=True)
OutOption = Annotated[Path, typer.Option(help="Where results go; an audit that was stopped goes on from there.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
SeedOption = Annotated[int, typer.Option(min=0, help="The same seed gives the same figures.")]
EpsilonOption = Annotated[float, typer.Option(min=0.1, help="The claim that is attacked.")]


@app.command("two-worlds")
def two_worlds(
    out: OutOption, runs: Annotated[int, typer.Option(min=100, help="Runs a world.")] = RUNS,
    epsilon: EpsilonOption = SMALL_CLAIM, seed: SeedOption = 0, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Many runs with and without one patient, told apart by whoever sees every release.

    Example: fedrad-sim audit two-worlds --out audits --runs 4000
    """
    from fedrad_sim.audits.two_worlds import audit

    _end([_played(audit, out, as_json, epsilon=epsilon, runs=runs, seed=seed)], as_json)


@app.command("one-run")
def one_run(
    out: OutOption, side: Annotated[int, typer.Option(min=8, max=128, help="Pixels; side squared canaries.")] = SIDE,
    epsilon: EpsilonOption = SMALL_CLAIM, seed: SeedOption = 0, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """One run with thousands of canaries, each there or not by a coin, and guesses about the boldest.

    Example: fedrad-sim audit one-run --out audits
    """
    from fedrad_sim.audits.one_run import audit

    _end([_played(audit, out, as_json, epsilon=epsilon, side=side, seed=seed)], as_json)


@app.command()
def membership(
    out: OutOption, models: Annotated[int, typer.Option(min=4, help="Models of each arm, an even number.")] = MODELS,
    images: Annotated[int | None, typer.Option(min=80, help="Only so many, for a quick look.")] = None,
    epsilon: EpsilonOption = CLAIM, seed: SeedOption = 0, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Whose image was in the training? Asked of pneumonia models, with models of other halves to compare.

    Example: fedrad-sim audit membership --out audits --models 8
    """
    from fedrad_sim.audits.membership import audit

    if models % 2:
        raise MisuseError(f"--models: {models} is odd", hint="each half has a model of its own: name an even number")
    _end([_played(audit, out, as_json, epsilon=epsilon, models=models, images=images, seed=seed)], as_json)


@app.command()
def inversion(
    out: OutOption, candidates: Annotated[int, typer.Option(min=2, help="Invented images to choose among.")] = CANDIDATES,
    repeats: Annotated[int, typer.Option(min=1, help="Times that each is the target.")] = REPEATS,
    epsilon: EpsilonOption = CLAIM, seed: SeedOption = 0, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Paint a patient's image from the updates that it made, and find it among candidates.

    Example: fedrad-sim audit inversion --out audits
    """
    from fedrad_sim.audits.inversion import audit

    _end([_played(audit, out, as_json, epsilon=epsilon, candidates=candidates, repeats=repeats, seed=seed)], as_json)


@app.command("all")
def all_(out: OutOption, seed: SeedOption = 0, as_json: JsonOption = False) -> None:
    """All four at their defaults, and the report; about a quarter of an hour of one core.

    Example: fedrad-sim audit all --out audits
    """
    from fedrad_sim.audits import inversion, membership, one_run, two_worlds
    from fedrad_sim.audits.report import write_report

    _played(two_worlds.audit, out, as_json, epsilon=SMALL_CLAIM, runs=RUNS, seed=seed)
    _played(one_run.audit, out, as_json, epsilon=SMALL_CLAIM, side=SIDE, seed=seed)
    _played(membership.audit, out, as_json, epsilon=CLAIM, models=MODELS, images=None, seed=seed)
    _played(inversion.audit, out, as_json, epsilon=CLAIM, candidates=CANDIDATES, repeats=REPEATS, seed=seed)
    _end(write_report(out), as_json)


@app.command()
def report(out: Annotated[Path, typer.Argument(metavar="DIR", help="What the audits wrote.")], as_json: JsonOption = False) -> None:
    """Write audit.html and audit.json from what the audits have found.

    Example: fedrad-sim audit report audits
    """
    from fedrad_sim.audits.report import write_report

    _end(write_report(out), as_json)


def _played(audit: Callable[..., "Finding"], out: Path, quiet: bool, **settings: Any) -> "Finding":
    from fedrad_common.progress import progress_bar
    from fedrad_sim.audits.finding import write_finding
    from fedrad_sim.processes import use_one_core

    use_one_core()  # so small networks wait for a second thread
    finding: Finding = audit(out, bar=functools.partial(progress_bar, quiet=quiet), **settings)
    write_finding(out, finding)
    return finding


def _end(findings: Sequence["Finding"], as_json: bool) -> None:
    """Print, and fail with all that is not as it should be.

    Raises:
        FedradError: a defended arm is above the claim or above its bar, or a control found nothing.
    """
    from fedrad_sim.audits.finding import TO_DO

    for finding in findings:
        lines = [f"{finding.audit}: claim ε {finding.epsilon:g}, δ {finding.delta:.1e}, per {finding.unit}; {finding.seconds:.0f} s"]
        for arm in finding.arms:
            lines.append(f"  {arm.name}{' (control)' if arm.control else ''}: {arm.says}")
            lines += [f"    {name:<36}{value:>10.4g}" for name, value in arm.figures.items()]
        if not as_json:
            emit({}, as_json=False, lines=lines)
    if as_json:
        emit([_facts(finding) for finding in findings], as_json=True)
    faults = [(finding, arm) for finding in findings for arm in finding.faults]
    if faults:
        said = "; ".join(f"{finding.audit}: {arm.name}: {arm.verdict}: {arm.says}" for finding, arm in faults)
        raise FedradError(said, hint="; ".join(dict.fromkeys(f"{arm.verdict}: {TO_DO[arm.verdict]}" for _, arm in faults)))


def _facts(finding: "Finding") -> dict[str, Any]:
    return finding.model_dump(mode="json", exclude={"arms": {"__all__": {"drawn", "pictures"}}})
