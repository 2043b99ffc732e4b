"""What an ingest has read it need not read again: killed or finished, under other names, for one recipe. What is damaged is read anew."""

import errno
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import protocol_text
from fakes.terminal import Terminal, on_disk

from fedrad_client.cohort.merged import Merge, Table, write_table
from fedrad_client.cohort.store import current, open_cohort
from fedrad_client.cohort.withdrawal import withdraw
from fedrad_client.intake import states
from fedrad_client.intake.deid.merges import seal
from fedrad_client.intake.deid.rules import identified
from fedrad_client.intake.pixels.image import Geometry
from fedrad_client.intake.report import IngestReport
from fedrad_client.intake.states import FILE, PIXELS, RECIPES, counts
from fedrad_common.errors import DiskError, FormatError
from fedrad_common.profiles import profile

KILLED = """
import os, sys
from pathlib import Path
from fedrad_client.intake import states
from fedrad_client.intake.deid.rules import PseudonymKeys
from fedrad_client.intake.ingest import ingest
from fedrad_client.intake.pixels.image import Geometry
from fedrad_common.profiles import profile
source, cohort, at, at_once = sys.argv[1:]
states._AT_ONCE = int(at_once)
ingest(Path(source), None, cohort=Path(cohort), geometry=Geometry(profile("xr"), 16, 16), label_names=(), validation_fraction=0.3,
       keys=PseudonymKeys.from_secret(bytes(range(32))), progress=lambda done, _: done == int(at) and os.kill(os.getpid(), 9))
"""


def generation(folder: Path) -> dict[str, bytes | None]:
    return on_disk(folder / f"{current(folder):05d}")


def rows(folder: Path, wanted: str = "*") -> list[tuple[object, ...]]:
    with sqlite3.connect(folder / FILE) as database:
        found = database.execute(f"SELECT {wanted} FROM files ORDER BY content").fetchall()
    database.close()
    return found


def pixels(folder: Path) -> Path:
    (found,) = (folder / PIXELS).iterdir()
    return found


# ── nothing is read twice ──


def test_a_killed_ingest_goes_on_where_it_was_and_ends_as_if_it_had_not_been(tmp_path, patients, run_ingest):
    source = patients(12)
    program = [sys.executable, "-c", KILLED, source, tmp_path / "cohort", "20", "8"]
    assert subprocess.run(program, check=False).returncode == -9
    assert not (tmp_path / "cohort" / "current").exists()
    done = run_ingest()
    undisturbed = run_ingest(cohort=tmp_path / "undisturbed")

    assert done.n_known == 16
    assert done == undisturbed
    assert generation(tmp_path / "cohort") == generation(tmp_path / "undisturbed")


def test_an_interrupted_ingest_keeps_what_it_read(patients, run_ingest):
    patients(4)

    def interrupt(done: int, _: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_ingest(progress=interrupt)

    assert run_ingest().n_known == 6


def test_the_same_content_under_other_names_is_not_read_again(tmp_path, patients, run_ingest):
    source = patients()
    run_ingest()
    before = pixels(tmp_path / "cohort").read_bytes()
    (tmp_path / "inbox").mkdir()
    for number, path in enumerate(sorted(source.rglob("*.dcm"), reverse=True)):
        shutil.copy(path, tmp_path / "inbox" / f"{number}")
    again = run_ingest(tmp_path / "inbox")

    assert (again.n_known, again.n_files, again.changed) == (12, 12, False)
    assert pixels(tmp_path / "cohort").read_bytes() == before


def test_only_new_files_are_read(patients, write_dicom, tmp_path, run_ingest):
    patients(3)
    run_ingest()
    write_dicom(tmp_path / "dicom" / "new.dcm", "NEW", "1.2.99.1")

    assert run_ingest().n_known == 6


def test_files_with_a_code_are_not_read_again_unless_it_may_change(tmp_path, patients, write_dicom, run_ingest):
    patients(2)
    write_dicom(tmp_path / "dicom" / "x.dcm", "X", "1.2.99.1", Modality="US")
    (tmp_path / "dicom" / "letter").write_text("DOE")
    first, again = run_ingest(), run_ingest()

    assert again.n_known == first.n_files == 6
    assert again.counts == first.counts == {"modality": 1, "not-dicom": 1}


def test_a_volume_of_known_slices_is_the_same_volume(tmp_path, write_slices, run_ingest, volume):
    write_slices(6)
    first = run_ingest(geometry=volume, cohort=tmp_path / "one")
    run_ingest(geometry=volume)
    again = run_ingest(geometry=volume)

    assert (first.n_images, again.n_known, again.changed) == (1, 6, False)
    assert generation(tmp_path / "cohort") == generation(tmp_path / "one")


@pytest.fixture
def volume() -> Geometry:
    return Geometry(profile("mr"), 16, 16, 4, (2.0, 2.0, 2.0))


@pytest.fixture
def write_slices(tmp_path, write_dicom):
    def write(count: int, *, patient: str = "P1", missing: int | None = None) -> None:
        for number in range(count):
            if number != missing:
                place = {"ImagePositionPatient": [0, 0, 3 * number], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1]}
                series = f"1.2.{patient[1:]}"
                path = tmp_path / "dicom" / patient / f"{number}.dcm"
                write_dicom(path, patient, f"{series}.{number}", Modality="MR", SeriesInstanceUID=series, **place)

    return write


def test_another_recipe_reads_anew_and_the_first_one_stays_known(tmp_path, patients, run_ingest):
    patients(2)
    run_ingest()
    other = run_ingest(geometry=Geometry(profile("xr"), 8, 8))
    back = run_ingest()

    assert (other.n_known, back.n_known) == (0, 4)
    assert len(list((tmp_path / "cohort" / PIXELS).iterdir())) == 2
    assert back.generation == 3


def test_what_no_recent_ingest_was_for_is_not_kept(tmp_path, patients, run_ingest):
    patients(2)
    for side in range(8, 8 + RECIPES):
        run_ingest(geometry=Geometry(profile("xr"), side, side))
    run_ingest(geometry=Geometry(profile("xr"), 8, 8))  # the oldest, wanted again
    run_ingest(geometry=Geometry(profile("xr"), 30, 30))

    assert len(list((tmp_path / "cohort" / PIXELS).iterdir())) == RECIPES
    assert run_ingest(geometry=Geometry(profile("xr"), 8, 8)).n_known == 4
    assert run_ingest(geometry=Geometry(profile("xr"), 9, 9)).n_known == 0


def test_another_label_table_reads_nothing_again_but_what_had_no_label(tmp_path, patients, run_ingest):
    patients(3)
    labels = tmp_path / "labels.csv"
    labels.write_text("PatientID,A\nP0,1\nP1,0\n")
    assert run_ingest(labels=labels).counts == {"unlabelled": 2}
    labels.write_text("PatientID,A\nP0,0\nP1,1\nP2,1\n")
    done = run_ingest(labels=labels)

    assert (done.n_known, done.n_images, done.counts) == (4, 6, {})
    assert sorted(open_cohort(tmp_path / "cohort").labels[:, 0].astype(int)) == [0, 0, 1, 1, 1, 1]


# ── what is damaged is read anew ──


def overwrite(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def spoil_pages(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(4096)
        stream.write(b"\xff" * (path.stat().st_size - 4096))


def of_another_version(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE files")
        database.execute("CREATE TABLE files (content BLOB, verdict TEXT)")
        database.execute("PRAGMA user_version = 99")
    database.close()


def keep_a_stale_log(path: Path) -> None:
    overwrite(path)
    path.with_name(f"{FILE}-wal").write_bytes(b"\x37\x7f\x06\x82" + b"x" * 5000)


DAMAGE = [overwrite, halve, spoil_pages, of_another_version, keep_a_stale_log, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_database_costs_a_reading_and_nothing_else(tmp_path, patients, run_ingest, damage):
    patients(8)
    run_ingest()
    before = generation(tmp_path / "cohort")
    damage(tmp_path / "cohort" / FILE)
    done, again = run_ingest(), run_ingest()

    assert (done.n_known, again.n_known) == (0, 16)
    assert not done.changed
    assert generation(tmp_path / "cohort") == before


def test_pixels_that_no_row_speaks_of_any_more_are_not_kept(tmp_path, patients, run_ingest):
    patients(2)
    run_ingest(geometry=Geometry(profile("xr"), 8, 8))
    overwrite(tmp_path / "cohort" / FILE)
    run_ingest()

    assert pixels(tmp_path / "cohort").stat().st_size == 4 * 2 * 16 * 16


def test_a_damaged_database_is_no_traceback_for_who_asks_where_files_stand(tmp_path, patients, run_ingest):
    patients(1)
    run_ingest()
    overwrite(tmp_path / "cohort" / FILE)

    with pytest.raises(FormatError, match=f"{FILE}: is damaged"):
        counts(tmp_path / "cohort")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("damage", "known"), [(flip, 15), (halve, 8), (Path.unlink, 0)])
def test_damaged_pixels_are_read_again(tmp_path, patients, run_ingest, damage, known):
    patients(8)
    run_ingest()
    before = generation(tmp_path / "cohort")
    damage(pixels(tmp_path / "cohort"))
    done, again = run_ingest(), run_ingest()

    assert (done.n_known, done.changed, again.n_known) == (known, False, 16)
    assert generation(tmp_path / "cohort") == before


def test_pixels_that_a_killed_ingest_left_without_a_row_are_cut_off(tmp_path, patients, run_ingest):
    patients(2)
    run_ingest()
    before = pixels(tmp_path / "cohort").read_bytes()
    with pixels(tmp_path / "cohort").open("ab") as stream:
        stream.write(b"of nobody")
    run_ingest()

    assert pixels(tmp_path / "cohort").read_bytes() == before


# ── whose they are ──


def traces(cohort: Path, pseudonym: str) -> set[str]:
    """Files of the states that hold this name."""
    return {path.name for path in [*cohort.glob(f"{FILE}*"), *(cohort / PIXELS).iterdir()] if pseudonym.encode() in path.read_bytes()}


def test_of_a_patient_who_withdrew_neither_rows_nor_pixels_are_kept(tmp_path, patients, write_dicom, run_ingest, keys):
    patients(3)
    write_dicom(tmp_path / "dicom" / "1" / "us.dcm", "P1", "1.2.1.9", Modality="US")
    run_ingest()
    run_ingest(geometry=Geometry(profile("xr"), 8, 8))
    gone = identified("P1").pseudonym(keys)
    stored = open_cohort(tmp_path / "cohort")
    image = next(image for record, image in zip(stored.records, stored.pixels[0], strict=True) if record.patient == gone).tobytes()
    kept = list((tmp_path / "cohort" / PIXELS).iterdir())
    assert traces(tmp_path / "cohort", gone)
    assert any(image in path.read_bytes() for path in kept)

    withdraw(tmp_path / "cohort", {gone}, key=keys.id)
    shutil.rmtree(tmp_path / "dicom" / "1")  # its files are not even there any more
    done = run_ingest()

    assert done.n_patients == 2
    assert not traces(tmp_path / "cohort", gone)
    assert not any(image in path.read_bytes() for path in kept)


def test_a_merge_after_an_ingest_makes_one_patient_of_two(tmp_path, patients, run_ingest, keys):
    patients(4)
    run_ingest()
    stays, alias = identified("P0"), identified("P1")
    merge = Merge(alias.pseudonym(keys), stays.pseudonym(keys), apart=False, sealed=seal(stays, alias.pseudonym(keys), keys))
    write_table(tmp_path / "cohort", Table(keys.id, (merge,)))
    done, again = run_ingest(), run_ingest()
    anew = run_ingest(cohort=cohort_with(tmp_path / "anew", Table(keys.id, (merge,))))

    assert (done.n_known, done.n_patients, again.n_known) == (6, 3, 8)
    assert (anew.n_known, anew.n_patients) == (0, 3)
    assert open_cohort(tmp_path / "cohort").records == open_cohort(tmp_path / "anew").records


def test_what_was_read_under_a_merge_is_not_taken_for_a_file_without_it(tmp_path, patients, run_ingest, keys):
    patients(4)
    stays, alias = identified("P0"), identified("P1")
    merge = Merge(alias.pseudonym(keys), stays.pseudonym(keys), apart=False, sealed=seal(stays, alias.pseudonym(keys), keys))
    run_ingest(cohort=cohort_with(tmp_path / "cohort", Table(keys.id, (merge,))))
    write_table(tmp_path / "cohort", Table(keys.id))
    done = run_ingest()

    assert (done.n_known, done.n_patients) == (6, 4)


def cohort_with(folder: Path, table: Table) -> Path:
    folder.mkdir()
    write_table(folder, table)
    return folder


def test_only_the_site_may_read_what_is_kept(tmp_path, patients, run_ingest):
    patients(2)
    seen = set()
    cohort = tmp_path / "cohort"

    def look(*_: int) -> None:
        seen.update((path.name.rpartition(".")[2], path.stat().st_mode & 0o777) for path in [*cohort.glob(f"{FILE}*"), pixels(cohort)])

    before = os.umask(0)
    try:
        run_ingest(progress=look)
    finally:
        os.umask(before)

    assert {mode for _, mode in seen} == {0o600}
    assert {name for name, _ in seen} >= {"sqlite", "sqlite-wal", "pixels"}
    assert (cohort / PIXELS).stat().st_mode & 0o777 == 0o700


def test_no_identifier_stands_in_what_is_kept(tmp_path, write_dicom, run_ingest):
    for number in range(3):
        write_dicom(tmp_path / "dicom" / "JANE.dcm", "DOE-4711", f"1.2.826.{number}", PatientName="DOE^JANE", Modality="CR")
    (tmp_path / "dicom" / "DOE.txt").write_text("DOE")
    run_ingest()

    for trace in ("DOE", "JANE", "1.2.826"):
        assert not traces(tmp_path / "cohort", trace)


# ── a full disk ──


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_full_of_pixels_says_so_and_the_same_command_goes_on(tmp_path, patients, run_ingest, monkeypatch):
    patients(4)
    run_ingest()
    before = generation(tmp_path / "cohort")
    patients(4, first=10)
    append, written = states.States.append, []
    monkeypatch.setattr(states.States, "append", lambda *given: full() if len(written) == 3 else written.append(1) or append(*given))

    with pytest.raises(DiskError, match="no space left") as caught:
        run_ingest()
    monkeypatch.undo()

    assert "free" in caught.value.hint
    assert generation(tmp_path / "cohort") == before
    done = run_ingest()
    assert (done.n_known, done.n_images) == (11, 16)


def test_a_disk_full_of_rows_says_so_and_the_same_command_goes_on(tmp_path, patients, run_ingest, monkeypatch):
    patients(12)
    connect = states.connect

    def little(path: Path) -> sqlite3.Connection:
        database = connect(path)
        database.execute("PRAGMA max_page_count = 5")
        return database

    monkeypatch.setattr(states, "connect", little)
    monkeypatch.setattr(states, "_AT_ONCE", 8)
    with pytest.raises(DiskError, match="no space left"):
        run_ingest()
    monkeypatch.undo()

    assert not (tmp_path / "cohort" / "current").exists()
    assert run_ingest().n_images == 24


# ── what a person sees ──


def test_every_file_has_a_state_and_every_refusal_a_code(tmp_path, patients, write_dicom, run_ingest):
    patients(2)
    write_dicom(tmp_path / "dicom" / "x.dcm", "X", "1.2.99.1", Modality="US")
    (tmp_path / "dicom" / "letter").write_text("DOE")
    shutil.copy(tmp_path / "dicom" / "0" / "0.dcm", tmp_path / "dicom" / "copy.dcm")
    run_ingest()

    assert counts(tmp_path / "cohort") == {
        ("in-cohort", None): 4,
        ("quarantined", "modality"): 1,
        ("quarantined", "not-dicom"): 1,
    }


def test_a_report_says_how_many_which_series_and_what_to_do(tmp_path, patients, write_dicom, run_ingest):
    patients(1)
    path = write_dicom(tmp_path / "dicom" / "1" / "a.dcm", "P5", "1.2.99.1", SeriesInstanceUID="1.2.99")
    os.truncate(path, path.stat().st_size - 100)
    for image in range(2):
        write_dicom(tmp_path / "dicom" / "2" / f"{image}.dcm", "P5", f"1.2.98.{image}", SeriesInstanceUID="1.2.98", NumberOfFrames=2)
        write_dicom(tmp_path / "dicom" / "3" / f"{image}.dcm", "P5", f"1.2.97.{image}", SeriesInstanceUID="1.2.97", Modality="US")
    report = IngestReport(run_ingest())

    assert report.facts()["series"] == {"modality": [4], "truncated": [3]}
    assert any(line.startswith("  set aside       2  modality (series #4): the profile does not take this") for line in report.lines())
    assert not [line for line in report.lines() if "P5" in line or "1.2.9" in line]


def test_a_series_with_a_gap_is_set_aside_whole_and_named_by_its_number(write_slices, run_ingest, volume):
    write_slices(8, patient="P1")
    write_slices(8, patient="P2", missing=4)
    report = IngestReport(run_ingest(geometry=volume))

    assert report.facts()["series"] == {"missing-slices": [2]}
    assert any("7  missing-slices (series #2): its series has gaps" in line for line in report.lines())


# ── the command ──


@pytest.fixture
def site(make_site, tmp_path, capsys):
    home = make_site()
    shutil.rmtree(home.cohort)
    (tmp_path / "protocol.toml").write_bytes(protocol_text())
    (tmp_path / "labels.csv").write_text("PatientID,lesion\n" + "".join(f"P{number},{number % 2}\n" for number in range(8)))
    return home, Terminal(tmp_path, capsys)


def test_ingest_without_a_source_reads_the_inbox_and_status_says_where_every_file_stands(site, tmp_path, patients):
    home, terminal = site
    options = ("--protocol", tmp_path / "protocol.toml", "--labels", tmp_path / "labels.csv", "--home", home.path)
    assert "nothing was received" in terminal.fail("fedrad-site", "ingest", *options).error
    inbox = home.path / "inbox"
    inbox.mkdir()
    (inbox / ".half").write_bytes(b"still being written")
    for path in (*patients(3).rglob("*.dcm"), tmp_path / "labels.csv"):
        (inbox / f"{hashlib.sha256(path.read_bytes()).hexdigest()}.dcm").write_bytes(path.read_bytes())
    before = status(terminal, home.path)
    assert json.loads(terminal.do("fedrad-site", "ingest", *options, "--json").out)["images"] == 6
    after = status(terminal, home.path)

    assert (before["states"], before["quarantined"]) == ({"received": 7}, {})
    assert (after["states"], after["quarantined"]) == ({"received": 0, "in-cohort": 6, "quarantined": 1}, {"not-dicom": 1})
    said = terminal.do("fedrad-site", "ingest", "--status", "--home", home.path).out
    assert "6  in-cohort" in said
    assert "1  not-dicom: has no DICOM header" in said
    assert "6 files were read before" not in terminal.do("fedrad-site", "ingest", *options).out
    assert "7 files were read before" in terminal.do("fedrad-site", "ingest", *options).out


def status(terminal: Terminal, home: Path) -> dict[str, dict[str, int]]:
    return json.loads(terminal.do("fedrad-site", "ingest", "--status", "--json", "--home", home).out)
