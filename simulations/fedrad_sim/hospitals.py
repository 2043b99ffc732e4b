"""A scenario's hospitals: DICOM on disk, then each hospital's own verbs run on it, as its IT person would type them."""

import contextlib
import functools
import io
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedrad_common.files import write_atomic
from fedrad_common.identity import SigningKey
from fedrad_sim.entropy import seeded_entropy
from fedrad_sim.processes import one_of_several
from fedrad_sim.scenario import Scenario, data_path

if TYPE_CHECKING:
    from fedrad_sim import phantom

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]  # what, done, total


@dataclass(frozen=True)
class Hospital:
    name: str
    folder: Path  # dicom/ and labels.csv
    n_patients: int


@dataclass(frozen=True)
class Hospitals:
    sites: tuple[Hospital, ...]
    held_out: Hospital | None  # patients of no hospital; their labels are the truth
    unit: str  # "patient", or "image" where the source names no patients


def patients_of(scenario: Scenario, beside: Path, seeds: Sequence[int]) -> dict[int, dict[str, int]]:
    """By seed the patients of each hospital that `make_hospitals` would make; nothing is written."""
    source = scenario.imported
    if source is None:
        from fedrad_sim.phantom import HOSPITALS, scaled

        assert scenario.phantom is not None
        sizes = {hospital.name: scaled(hospital, scenario.phantom.scale).n_patients for hospital in HOSPITALS}
        return dict.fromkeys(seeds, sizes)
    from fedrad_sim.importer import who_is_where

    return who_is_where(
        data_path(source.arrays, beside), image=source.image, label=source.label, patient=source.patient, site=source.site,
        split=source.split, n_sites=source.n_sites, seeds=seeds,
    )  # fmt: skip


def make_hospitals(scenario: Scenario, beside: Path, out: Path, progress: Progress, pool: Executor | None = None) -> Hospitals:
    """Write every hospital's DICOM below `out`."""
    if scenario.imported is not None:
        return _import(scenario, beside, out, progress)
    from fedrad_sim.phantom import HELD_OUT, HOSPITALS, scaled, write_hospital

    assert scenario.phantom is not None
    held_out = scaled(HELD_OUT, scenario.phantom.held_out / HELD_OUT.n_patients)
    wanted = (*(scaled(hospital, scenario.phantom.scale) for hospital in HOSPITALS), held_out)
    if pool is None:
        for hospital in wanted:
            write_hospital(hospital, out / hospital.name, seed=scenario.seed, progress=_named(progress, f"{hospital.name}: DICOM"))
    else:
        written = pool.map(functools.partial(_write, out=out, seed=scenario.seed), wanted)
        for number, _ in enumerate(written, start=1):
            progress("hospitals' DICOM", number, len(wanted))
    made = [Hospital(hospital.name, out / hospital.name, hospital.n_patients) for hospital in wanted]
    return Hospitals(tuple(made[:-1]), made[-1], "patient")


def _write(hospital: "phantom.Hospital", *, out: Path, seed: int) -> None:
    from fedrad_sim.phantom import write_hospital

    write_hospital(hospital, out / hospital.name, seed=seed)


def _import(scenario: Scenario, beside: Path, out: Path, progress: Progress) -> Hospitals:
    from fedrad_sim.importer import import_arrays

    source = scenario.imported
    assert source is not None
    done = import_arrays(
        data_path(source.arrays, beside),
        image=source.image,
        label=source.label,
        patient=source.patient,
        site=source.site,
        split=source.split,
        n_sites=source.n_sites,
        profile=source.profile,
        seed=scenario.seed,
        names=(scenario.label,),
        out=out,
        progress=_named(progress, "arrays to DICOM"),
    )
    sites = tuple(Hospital(name, out / name, n_patients) for name, n_patients in done.patients.items())
    return Hospitals(sites, None, done.unit)


@dataclass(frozen=True)
class Opening:
    """All that a hospital needs before its first approval, by value, so that another process can do it."""

    hospital: Hospital
    home: Path
    scenario: Scenario
    protocol: Path
    key: Path  # the coordinator's signing key


def opened(opening: Opening) -> tuple[int, list[str]]:
    """`open_hospital`: the declared size, and what it said."""
    lines: list[str] = []
    key = SigningKey.load(opening.key)
    # Where several hospitals open at once, the verbs' own bars would write over each other.
    with contextlib.redirect_stderr(io.StringIO()) if one_of_several() else contextlib.nullcontext():
        size = open_hospital(
            opening.hospital, opening.home, scenario=opening.scenario, protocol=opening.protocol, key=key, say=lines.append
        )
    return size, lines


def publish(key: SigningKey, folder: Path) -> Path:
    """`coordinator.pub`, as every hospital gets it."""
    public = folder / "coordinator.pub"
    if not public.exists():
        folder.mkdir(parents=True, exist_ok=True)
        public.write_text(key.public.hex + "\n")
    return public


def open_hospital(hospital: Hospital, home: Path, *, scenario: Scenario, protocol: Path, key: SigningKey, say: Say) -> int:
    """`fedrad-site init`, `ingest`, `preview`: what a hospital does before it approves. Returns the declared size."""
    size = declared_size(hospital.n_patients, scenario.sites.validation_fraction)
    public = publish(key, home.parent)
    settings = ["--epsilon", f"{scenario.sites.epsilon}", "--delta", f"{delta_for(size)}"]
    settings += ["--validation-fraction", f"{scenario.sites.validation_fraction}"]
    folder, shown = hospital.folder, ["--home", str(home)]
    site(["init", "--local", "--name", hospital.name, "--coordinator", str(public), *settings, *shown], say=say)
    # A real site's key comes from the operating system; here the same seed must split the same patients again.
    write_atomic(home / "keys" / "pseudonym.key", seeded_entropy(scenario.seed, f"{hospital.name}: pseudonyms")(32).hex().encode() + b"\n")
    site(["ingest", str(folder / "dicom"), "--labels", str(folder / "labels.csv"), "--protocol", str(protocol), *shown], say=say)
    site(["preview", str(protocol), "--declared-size", str(size), *shown], say=say)
    return size


def site(arguments: list[str], *, say: Say) -> None:
    """Run one `fedrad-site` command in this process and show it as a console block."""
    from fedrad_client.cli import app

    with contextlib.redirect_stdout(io.StringIO()) as output:
        app(arguments, prog_name="fedrad-site", standalone_mode=False)
    say(f"$ fedrad-site {' '.join(_short(argument) for argument in arguments)}")
    for line in output.getvalue().splitlines():
        say(f"  {line}")


def declared_size(n_patients: int, validation_fraction: float) -> int:
    """What a hospital of this size would type: its training patients, about."""
    return max(1, round(n_patients * (1 - validation_fraction)))


def delta_for(size: int) -> float:
    return 1 / (10 * size)


def _named(progress: Progress, what: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(what, done, total)


def _short(argument: str) -> str:
    """A long path by its last two parts, a long fraction rounded down to two digits, so that the block stays readable."""
    if argument.startswith("0.0"):
        digits = len(argument) - len(argument[2:].lstrip("0"))
        return argument[: digits + 2]
    return "/".join(Path(argument).parts[-2:]) if "/" in argument else argument
