"""`fedrad-sim audit`: attack our own training, and hold what that proves against what the account claims."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrad_common.cli import emit
from fedrad_common.errors import FedradError

if TYPE_CHECKING:
    from fedrad_sim.audits.finding import Finding

app = typer.Typer(help="Attack our own training, each time with a control that shows that the attack works.", no_args_is_help=True)
OutOption = Annotated[Path, typer.Option(help="Where results go; an audit that was stopped goes on from there.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
SeedOption = Annotated[int, typer.Option(min=0, help="The same seed gives the same figures.")]
EpsilonOption = Annotated[float, typer.Option(min=0.1, help="The claim that is attacked.")]


@app.command("two-worlds")
def two_worlds(
    out: OutOption, runs: Annotated[int, typer.Option(min=100, help="Runs a world.")] = 2000,
    epsilon: EpsilonOption = 4.0, seed: SeedOption = 0, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Many runs with and without one patient, told apart by whoever sees every release.

    Example: fedrad-sim audit two-worlds --out audits --runs 2000
    """
    from fedrad_sim.audits.two_worlds import audit

    _end([_played(audit, out, as_json, epsilon=epsilon, runs=runs, seed=seed)], as_json)


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
    """Print, and fail where a claim is broken or an attack is blunt."""
    for finding in findings:
        lines = [f"{finding.audit}: claim ε {finding.epsilon:g}, δ {finding.delta:.1e}, per {finding.unit}; {finding.seconds:.0f} s"]
        for arm in finding.arms:
            lines.append(f"  {arm.name}{' (control)' if arm.control else ''}: {arm.says}")
            lines += [f"    {name:<36}{value:>10.4g}" for name, value in arm.figures.items()]
        if not as_json:
            emit({}, as_json=False, lines=lines)
    if as_json:
        emit([_facts(finding) for finding in findings], as_json=True)
    for finding in findings:
        for arm in finding.broken:
            raise FedradError(
                f"{finding.audit}: {arm.name}: {arm.says}", hint="the claim does not hold: train nowhere until it is known why"
            )
        for arm in finding.blunt:
            raise FedradError(f"{finding.audit}: {arm.name}: {arm.says}", hint="the control fails: the attack proves nothing; more runs?")


def _facts(finding: "Finding") -> dict[str, Any]:
    return finding.model_dump(mode="json", exclude={"arms": {"__all__": {"drawn", "pictures"}}})
