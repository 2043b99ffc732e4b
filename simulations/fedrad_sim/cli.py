"""`fedrad-sim`: what a researcher types. Many sites on one machine, through the same code as the real ones."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fedrad_common.cli import emit, run_cli
from fedrad_common.errors import MisuseError
from fedrad_sim.audits.cli import app as audits

app = typer.Typer(
    name="fedrad-sim",
    help="Simulate federated, private training on radiology data: invented hospitals, or your own arrays.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(audits, name="audit")
JsonOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
EngineOption = Annotated[str, typer.Option(help="local: in this process. ray: Flower's Ray engine.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


def main() -> None:
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # read when flwr is first imported
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    run_cli(app, "fedrad-sim")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("demo-run"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer patients; federated and pooled only.")] = False,
    force: Annotated[bool, typer.Option("--force/--keep", help="Replace an earlier demo there.")] = True,
) -> None:
    """Five invented hospitals, from DICOM to one model, every arm; ends with a table and a report.

    Example: fedrad-sim demo --out demo-run
    """
    from fedrad_sim.simulate import run as simulate

    if force and (out / "scenario.json").exists():
        shutil.rmtree(out)
    with _Talk() as talk:
        result = simulate("quick" if quick else "demo", out, jobs=os.cpu_count() or 1, say=talk.say, progress=talk.progress)
    _table(result)


@app.command()
def run(
    scenario: Annotated[str, typer.Argument(help="A scenario's name (demo, pneumonia, lgg) or TOML file.")],
    out: Annotated[Path, typer.Option(help="A new folder, or an unfinished simulation to go on with.")],
    engine: EngineOption = "local",
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the scenario's.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Sweep a protocol setting: privacy.epsilon=1,3,8")] = None,
    arms: Annotated[list[str] | None, typer.Option("--arm", help="Only these arms: federated-private, pooled-plain, …")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Arms played at once, one core each.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Play a scenario: hospitals, arms, scores, results.csv and report.html.

    Example: fedrad-sim run pneumonia --out runs/pneumonia --set privacy.epsilon=3,8
    """
    from fedrad_sim.engines import ENGINES
    from fedrad_sim.simulate import run as simulate
    from fedrad_sim.tables import comparison

    if engine not in ENGINES:
        raise MisuseError(f"--engine: {engine!r} is not known", hint=f"known engines: {', '.join(ENGINES)}")
    with _Talk(quiet=as_json) as talk:
        result = simulate(
            scenario,
            out,
            engine=engine,
            seed=seed,
            settings=_sweeps(set_ or []),
            arms=_arms(arms),
            jobs=jobs,
            say=talk.say,
            progress=talk.progress,
        )
    if as_json:
        emit(comparison(result.arms, unit=result.unit) | {"report": str(result.report)}, as_json=True)
    else:
        _table(result)


@app.command("privacy-utility")
def privacy_utility(
    protocol: Annotated[str, typer.Argument(help="A protocol's or scenario's name (phantom, pneumonia, demo, …) or TOML file.")],
    out: Annotated[Path, typer.Option(help="A new folder, or a sweep of the same to go on with.")],
    epsilon: Annotated[str, typer.Option(help="Of the whole run; each is played with every seed.")] = "1,3,8",
    seeds: Annotated[str, typer.Option(help="Hospitals, splits, sampling and noise of each seed are its own.")] = "1,2,3",
    over: Annotated[str | None, typer.Option(help="Scenario over whose data a protocol is played.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs played at once, one core each.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Show what each epsilon costs in AUC: a curve with seeds and intervals, and what an epsilon means.

    Example: fedrad-sim privacy-utility pneumonia --out utility --epsilon 1,3,8 --seeds 1,2,3
    """
    from fedrad_sim.privacy_utility.command import lines, play

    with _Talk(quiet=as_json) as talk:
        found, page = play(protocol, out, epsilon, seeds, over=over, jobs=jobs, say=talk.say, progress=talk.progress)
    emit(found.facts() | {"page": str(page)}, as_json=as_json, lines=lines(found, page))


@app.command("import")
def import_(
    arrays: Annotated[Path, typer.Argument(help="An .npz file.")],
    image: Annotated[str, typer.Option(help="Key of the images, (n, H, W).")],
    label: Annotated[str, typer.Option(help="Key of the labels, 0 or 1.")],
    out: Annotated[Path, typer.Option(help="One folder a hospital is written here.")],
    mask: Annotated[str | None, typer.Option(help="Key of the masks.")] = None,
    patient: Annotated[str | None, typer.Option(help="Key of the patients; without it every image is its own.")] = None,
    site: Annotated[str | None, typer.Option(help="Key of the hospitals.")] = None,
    split: Annotated[str | None, typer.Option(help="dirichlet:2.0 makes hospitals of unlike labels.")] = None,
    n_sites: Annotated[int, typer.Option("--sites", min=1, help="Hospitals, with --split.")] = 5,
    profile: Annotated[str, typer.Option(help="Pixel profile that the files suit: xr or mr.")] = "xr",
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn arrays into DICOM, one folder a hospital, so that the whole pipeline runs on them.

    Example: fedrad-sim import chest.npz --image train_images --label train_labels --split dirichlet:2.0 --out hospitals
    """
    from fedrad_common.progress import progress_bar
    from fedrad_sim.importer import import_arrays

    if profile not in ("xr", "mr"):
        raise MisuseError(f"--profile: {profile!r} is not known", hint="xr or mr")
    chosen: Any = profile
    with progress_bar("arrays to DICOM", quiet=as_json) as advance:
        done = import_arrays(
            arrays,
            image=image,
            label=label,
            out=out,
            mask=mask,
            patient=patient,
            site=site,
            split=split,
            n_sites=n_sites,
            profile=chosen,
            seed=seed,
            force=force,
            progress=advance,
        )
    facts = {"sites": done.sites, "unit": done.unit, "labels": list(done.labels), "images": done.n_images, "patients": done.n_patients}
    lines = [f"{done.n_images} images of {done.n_patients} patients at {len(done.sites)} hospitals in {out} (unit: {done.unit})"]
    lines += [f"  {name:<16}{count:>7} images" for name, count in done.sites.items()]
    emit(facts, as_json=as_json, lines=lines)


@app.command()
def evaluate(
    run_: Annotated[Path, typer.Argument(metavar="RUN", help="What `fedrad-sim run --out` wrote, or a run directory.")],
    data: Annotated[Path, typer.Argument(help="Arrays (.npz) or a folder of DICOM that the run never saw.")],
    image: Annotated[str | None, typer.Option(help="Key of the images, for arrays.")] = None,
    label: Annotated[str | None, typer.Option(help="Key of the labels, for arrays.")] = None,
    patient: Annotated[str | None, typer.Option(help="Key of the patients, for arrays.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Label table, for a folder; labels.csv beside it by default.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a run's model on data it never saw, through the run's own preprocessing.

    Example: fedrad-sim evaluate runs/pneumonia chest.npz --image val_images --label val_labels --json
    """
    from fedrad_sim.evaluate import evaluate as score

    found = score(run_, data, image=image, label=label, patient=patient, labels=labels)
    auc = "undefined: one class only" if found.auc is None else f"{found.auc:.4f}"
    interval = "" if found.auc_ci is None else f" (95 % interval {found.auc_ci[0]:.4f} … {found.auc_ci[1]:.4f}, patients resampled)"
    brier = "undefined" if found.brier is None else f"{found.brier:.4f}"
    lines = [f"{found.n} images of {found.n_patients} patients", f"  AUC    {auc}{interval}", f"  Brier  {brier}"]
    emit(found.facts(), as_json=as_json, lines=lines)


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="One folder a hospital is written here.")],
    scale: Annotated[float, typer.Option(min=0.01, help="Times the default number of patients.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
) -> None:
    """Write the invented hospitals' DICOM, labels, truth and planted identifiers.

    Example: fedrad-sim phantom hospitals --scale 0.1
    """
    from fedrad_common.progress import progress_bar
    from fedrad_sim.phantom import HELD_OUT, HOSPITALS, scaled, write_hospital

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MisuseError(f"{out}: is not empty", hint="name a new folder")
    for hospital in (*HOSPITALS, HELD_OUT):
        with progress_bar(hospital.name) as advance:
            truth = write_hospital(scaled(hospital, scale), out / hospital.name, seed=seed, progress=advance)
        typer.echo(f"{hospital.name:<12}{len(truth.images):>6} images of {truth.n_patients} patients")


def _sweeps(texts: list[str]) -> dict[str, list[object]]:
    """`privacy.epsilon=1,3,8` to a list of values: numbers and booleans as such, all else as text."""
    sweeps: dict[str, list[object]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not (equals and key and values):
            raise MisuseError(f"--set: {text!r}: expected KEY=VALUE[,VALUE…]", hint="for example --set privacy.epsilon=1,3,8")
        sweeps[key] = _values(values)
    return sweeps


def _values(text: str) -> list[object]:
    try:
        values: list[object] = json.loads(f"[{text}]")  # numbers, booleans, lists
    except ValueError:
        return [*text.split(",")]  # bare words
    return values


def _arms(names: list[str] | None) -> Any:
    from typing import get_args

    from fedrad_sim.scenario import ArmName

    unknown = [name for name in names or [] if name not in get_args(ArmName)]
    if unknown:
        raise MisuseError(f"--arm: {unknown[0]!r} is not known", hint=f"known arms: {', '.join(get_args(ArmName))}")
    return names or None


def _table(result: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from fedrad_sim.tables import rows

    header, *body = rows(result.arms)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column, name in enumerate(header):
        table.add_column(name, justify="left" if column in (0, 1, 4) else "right", no_wrap=True)
    for row in body:
        table.add_row(*row)
    console = Console(width=None if Console().is_terminal else 132)
    console.print()
    console.print(table)
    console.print(
        f"\nepsilon: of the whole run, per {result.unit}, at each hospital. seeded noise: its numbers hold, its privacy does not.",
        soft_wrap=True,
    )
    console.print(f"report: {result.report}", soft_wrap=True)


class _Talk:
    """Console blocks and progress on stderr: bars on a terminal, plain lines elsewhere."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._bar: Any = None
        self._name = ""
        self._advance: Callable[[int, int], None] = lambda done, total: None

    def __enter__(self) -> "_Talk":
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def say(self, line: str) -> None:
        self._close()
        if not self.quiet:
            typer.echo(line, err=True)

    def progress(self, what: str, done: int, total: int) -> None:
        from fedrad_common.progress import progress_bar

        if what != self._name:
            self._close()
            self._name, self._bar = what, progress_bar(what, quiet=self.quiet)
            self._advance = self._bar.__enter__()
        self._advance(done, total)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
        self._bar, self._name = None, ""
