"""`fedrad-site deid FOLDER`: a folder of DICOM becomes another that identifies nobody, and a local map says which file became which."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedrad_client.cohort.merged import read_table
from fedrad_client.cohort.withdrawal import tombstones
from fedrad_client.intake.burnin import queue
from fedrad_client.intake.burnin.rules import read_rules
from fedrad_client.intake.codes import CODES, Code
from fedrad_client.intake.deid.exported import Exported, ExportRecipe
from fedrad_client.intake.deid.keys import PseudonymKeys
from fedrad_client.intake.deid.map import Map, Row
from fedrad_client.intake.deid.merges import Merges
from fedrad_client.intake.deid.readers import exported
from fedrad_client.intake.reading.dicom import find_files
from fedrad_client.site import Home
from fedrad_common.errors import MisuseError
from fedrad_common.files import disk_errors, make_folder, write_atomic

Progress = Callable[[int, int], None]  # files done, files in all
PROJECT = "export"  # where none is named


@dataclass
class Report:
    """What a person is told: counts and running numbers, no path and no UID of a file."""

    n_files: int
    written: int = 0
    unchanged: int = 0  # written by an earlier run
    counts: Counter[Code] = field(default_factory=Counter)
    series: dict[Code, set[int]] = field(default_factory=dict)  # running numbers of the series in which files were set aside

    def facts(self) -> dict[str, Any]:
        aside = {code: {"files": count, "series": sorted(self.series.get(code, ()))} for code, count in sorted(self.counts.items())}
        return {"format": "fedrad-deid-1", "files": self.n_files, "written": self.written, "unchanged": self.unchanged, "set_aside": aside}

    def lines(self) -> list[str]:
        rows = [f"de-identified: {self.written} of {self.n_files} files written, {self.unchanged} were there already"]
        for code, count in sorted(self.counts.items()):
            numbers = sorted(self.series.get(code, ()))
            where = f" (series {', '.join(f'#{number}' for number in numbers[:8])}{', …' if len(numbers) > 8 else ''})" if numbers else ""
            rows.append(f"  set aside  {count:>6}  {code}{where}: {CODES[code]}")
        return rows


def recipe_of(home: Home, *, project: str) -> ExportRecipe:
    """The site's keys, its merge table, and who withdrew from it."""
    cohort = PseudonymKeys.from_secret(home.pseudonym_secret)
    merges = Merges.of(read_table(home.cohort), cohort)
    return ExportRecipe(
        PseudonymKeys.from_secret(home.pseudonym_secret, project=project), cohort, merges, tombstones(home.cohort), read_rules(home.path)
    )


def deidentify(
    source: Path,
    recipe: ExportRecipe,
    *,
    out: Path,
    map_path: Path,
    force: bool = False,
    review: Path | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Write one DICOM file below `out` for each usable one below `source`, which is not changed. The same again changes nothing.

    Files of an earlier run, named in the map with the same bytes, are not read again.

    Args:
        review: the site's home, where pictures with text wait for a person; None: nowhere.

    Raises:
        MisuseError: a folder or the map that cannot be, or a file where an image should go, and no `force`.
        FedradError: the disk is full; what is written is whole, and the same command goes on.
    """
    check_places(source, out, map_path)
    files = find_files(source)
    if not files:
        raise MisuseError("source: the folder is empty", hint="name the folder that holds the DICOM files; hidden files do not count")
    if not out.exists():
        make_folder(out)
        out.chmod(0o700)
    report, numbers = Report(len(files)), dict[str, int]()
    with Map.open(map_path, key=recipe.project.id, force=force) as known:
        todo = [path for path in files if force or not _is_done(known.rows.get(_name(path, source)), path, out)]
        report.unchanged = len(files) - len(todo)
        taken = {row.output: row.input for row in known.rows.values() if row.output}
        for place, (path, done) in enumerate(zip(todo, exported(todo, recipe, workers=workers), strict=True), start=1):
            number = numbers.setdefault(done.series, len(numbers) + 1) if done.series else None
            row = _row(done, _name(path, source), digest(path), out, taken, force=force)
            known.add(row)
            if review is not None and done.suspicion is not None and done.code is not None:
                waiting = done.suspicion.waiting(content=done.sha256, code=done.code, patient=done.named)
                queue.put(review, waiting, done.suspicion.picture)
            _count(report, row, number)
            if progress:
                progress(report.unchanged + place, len(files))
    return report


def check_places(source: Path, out: Path, map_path: Path) -> None:
    """Raises MisuseError where the output or the map would lie in what is read or in what is given away."""
    if not source.is_dir():
        raise MisuseError("source: no such folder", hint="name the folder that holds the DICOM files")
    inner, target = source.resolve(), out.resolve()
    if target.is_relative_to(inner) or inner.is_relative_to(target):
        raise MisuseError("--out: lies in the folder that is read, or around it", hint="name a folder beside it")
    if map_path.resolve().is_relative_to(target):
        raise MisuseError("--map: lies in the output folder", hint="the map leads back to patients: keep it where the output does not go")
    if map_path.is_dir() or not map_path.resolve().parent.is_dir():
        raise MisuseError("--map: is a folder, or its folder is missing", hint="name a file in a folder that is there")


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes; empty where it is no plain file, or cannot be read. A FIFO is never opened to wait."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() if os.path.isfile(descriptor) else ""  # noqa: PTH113 - of the open file
    except OSError:
        return ""


def _name(path: Path, source: Path) -> str:
    return os.fsencode(path.relative_to(source)).decode("utf-8", "backslashreplace")


def _is_done(row: Row | None, path: Path, out: Path) -> bool:
    if row is None or row.output is None:
        return False  # what was set aside is looked at again: a merge, a mask or a newer version may have changed its lot
    return digest(path) == row.sha256 and digest(out / row.output) == row.written


def _row(done: Exported, name: str, sha256: str, out: Path, taken: dict[str, str], *, force: bool) -> Row:
    """Write one file, unless the same image came from another one already."""
    if done.code:
        return Row(name, "set-aside", sha256, code=done.code)
    if taken.setdefault(done.place, name) != name:
        return Row(name, "set-aside", sha256, code="duplicate")
    path, written = out / done.place, hashlib.sha256(done.content).hexdigest()
    if path.exists() and digest(path) != written and not force:
        raise MisuseError("--out: another file stands where an image should go", hint="name an empty folder, or add --force")
    with disk_errors(out):
        for folder in (path.parent.parent, path.parent):  # each by itself: `parents` knows no mode
            folder.mkdir(mode=0o700, exist_ok=True)
    write_atomic(path, done.content)
    return Row(name, "written", sha256, output=done.place, written=written)


def _count(report: Report, row: Row, series: int | None) -> None:
    if row.code is None:
        report.written += 1
        return
    report.counts[row.code] += 1  # type: ignore[index] # a code, made from one a few lines above
    if series is not None:
        report.series.setdefault(row.code, set()).add(series)  # type: ignore[arg-type]
