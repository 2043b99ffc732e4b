"""`fedrad-site deid FOLDER`: whole or absent, the same again changes nothing, a killed run goes on, and nothing is overwritten."""

import json
import os
import sys
from pathlib import Path

import pytest
from fakes.reading import Elsewhere
from fakes.terminal import Terminal, on_disk
from pydicom import dcmread

from fedrad_client.intake.deid import folder as exporting
from fedrad_client.intake.deid import readers
from fedrad_client.intake.deid.exported import export
from fedrad_client.intake.deid.folder import deidentify, recipe_of
from fedrad_client.site import Home
from fedrad_common.errors import MisuseError

FOLDER = Path(__file__).resolve().parents[2] / "simulations" / "benchmarks"
sys.path.insert(0, str(FOLDER))
try:
    from deid_images import Who, encoded, sound
finally:
    sys.path.remove(str(FOLDER))


@pytest.fixture(autouse=True)
def _in_this_process(request, monkeypatch):
    """Reader processes take a second to start; one test below has real ones."""
    if "real_process" not in request.node.name:
        monkeypatch.setattr(exporting, "exported", lambda paths, recipe, workers: (export(path, recipe) for path in paths))


@pytest.fixture
def home(make_site) -> Home:
    return make_site()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    for number in range(3):
        (folder / f"DOE-{number}").mkdir(parents=True)
        for image in (1, 2):
            ds = sound("CT", Who(f"DOE-{number}", image=image))
            (folder / f"DOE-{number}" / f"{image}.dcm").write_bytes(encoded(ds))
    (folder / "DOE.txt").write_text("a letter about DOE")
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def images(out: Path) -> list[Path]:
    return sorted(out.rglob("*.dcm"))


def test_each_file_is_in_the_map_with_its_output_or_its_code(tmp_path, home, source):
    report = deidentify(source, recipe_of(home, project="p"), out=tmp_path / "out", map_path=tmp_path / "map.jsonl")
    found = rows(tmp_path / "map.jsonl")

    assert (report.written, dict(report.counts)) == (6, {"not-dicom": 1})
    assert [row["input"] for row in found] == sorted(str(path.relative_to(source)) for path in source.rglob("*.*") if path.is_file())
    assert all(("output" in row) != ("code" in row) for row in found)
    assert {tmp_path / "out" / row["output"] for row in found if "output" in row} == set(images(tmp_path / "out"))
    assert (tmp_path / "map.jsonl").stat().st_mode & 0o777 == 0o600


def test_no_name_of_a_file_or_patient_is_below_the_output(tmp_path, home, source):
    deidentify(source, recipe_of(home, project="p"), out=tmp_path / "out", map_path=tmp_path / "map.jsonl")

    assert not [name for name, content in on_disk(tmp_path / "out").items() if "DOE" in name or b"DOE" in (content or b"")]
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "out").rglob("*"))


def test_the_same_again_reads_and_changes_nothing(tmp_path, home, source, monkeypatch):
    places = {"out": tmp_path / "out", "map_path": tmp_path / "map.jsonl"}
    deidentify(source, recipe_of(home, project="p"), **places)
    before = on_disk(tmp_path)
    asked = []
    monkeypatch.setattr(
        exporting, "exported", lambda paths, recipe, workers: (asked.append(path) or export(path, recipe) for path in paths)
    )
    report = deidentify(source, recipe_of(home, project="p"), **places)

    assert (report.written, report.unchanged) == (0, 6)
    assert [path.name for path in asked] == ["DOE.txt"]
    assert on_disk(tmp_path) == before


def test_a_killed_run_goes_on_where_it_was_and_ends_the_same(tmp_path, home, source, monkeypatch):
    recipe = recipe_of(home, project="p")
    deidentify(source, recipe, out=tmp_path / "whole", map_path=tmp_path / "whole.jsonl")
    seen = []

    def dies(paths, recipe, workers):
        for number, path in enumerate(paths):
            if number == 3:
                raise KeyboardInterrupt
            yield export(path, recipe)

    def watched(paths, recipe, workers):
        for path in paths:
            seen.append(path)
            yield export(path, recipe)

    monkeypatch.setattr(exporting, "exported", dies)
    with pytest.raises(KeyboardInterrupt):
        deidentify(source, recipe, out=tmp_path / "out", map_path=tmp_path / "map.jsonl")
    assert not (tmp_path / "map.jsonl").exists()
    with (tmp_path / ".map.jsonl.journal").open("ab") as journal:
        journal.write(b'{"torn')
    monkeypatch.setattr(exporting, "exported", watched)
    deidentify(source, recipe, out=tmp_path / "out", map_path=tmp_path / "map.jsonl")

    assert len(seen) == 4  # of seven; three were done
    assert on_disk(tmp_path / "out") == on_disk(tmp_path / "whole")
    assert (tmp_path / "map.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not (tmp_path / ".map.jsonl.journal").exists()


def test_new_files_are_added_and_the_old_rows_stay(tmp_path, home, source):
    places = {"out": tmp_path / "out", "map_path": tmp_path / "map.jsonl"}
    deidentify(source, recipe_of(home, project="p"), **places)
    (source / "new.dcm").write_bytes(encoded(sound("CT", Who("DOE-1", image=9))))
    report = deidentify(source, recipe_of(home, project="p"), **places)

    assert (report.written, report.unchanged, len(rows(tmp_path / "map.jsonl"))) == (1, 6, 8)


def test_the_same_image_twice_is_written_once(tmp_path, home, source):
    (source / "again.dcm").write_bytes((source / "DOE-0" / "1.dcm").read_bytes())
    report = deidentify(source, recipe_of(home, project="p"), out=tmp_path / "out", map_path=tmp_path / "map.jsonl")

    assert (report.written, report.counts["duplicate"]) == (6, 1)


def test_another_file_in_the_way_is_not_overwritten(tmp_path, home, source):
    recipe, places = recipe_of(home, project="p"), {"out": tmp_path / "out", "map_path": tmp_path / "map.jsonl"}
    deidentify(source, recipe, **places)
    images(tmp_path / "out")[0].write_bytes(b"somebody's")
    with pytest.raises(MisuseError, match="another file stands"):
        deidentify(source, recipe, **places)
    kept = images(tmp_path / "out")[0].read_bytes()
    deidentify(source, recipe, **places, force=True)

    assert kept == b"somebody's"
    assert images(tmp_path / "out")[0].read_bytes() != kept


def test_a_file_that_is_no_map_is_not_overwritten(tmp_path, home, source):
    for content in (b"my notes", b"my notes\n", b'{"format":"other","key":"x"}\n'):
        (tmp_path / "map.jsonl").write_bytes(content)
        with pytest.raises(MisuseError, match="no map of this project"):
            deidentify(source, recipe_of(home, project="p"), out=tmp_path / "out", map_path=tmp_path / "map.jsonl")
        assert (tmp_path / "map.jsonl").read_bytes() == content


def test_another_projects_map_is_refused_and_its_pseudonyms_differ(tmp_path, home, source):
    deidentify(source, recipe_of(home, project="one"), out=tmp_path / "one", map_path=tmp_path / "one.jsonl")
    with pytest.raises(MisuseError, match="no map of this project"):
        deidentify(source, recipe_of(home, project="other"), out=tmp_path / "other", map_path=tmp_path / "one.jsonl")
    deidentify(source, recipe_of(home, project="other"), out=tmp_path / "other", map_path=tmp_path / "other.jsonl")

    assert not {path.name for path in images(tmp_path / "one")} & {path.name for path in images(tmp_path / "other")}


@pytest.mark.parametrize(
    ("out", "map_path", "said"),
    [
        ("in/out", "map.jsonl", "lies in the folder that is read"),
        (".", "map.jsonl", "lies in the folder that is read"),
        ("out", "out/map.jsonl", "lies in the output folder"),
        ("out", "nowhere/map.jsonl", "its folder is missing"),
    ],
)
def test_output_and_map_have_places_of_their_own(tmp_path, home, source, out, map_path, said):
    before = on_disk(tmp_path)
    with pytest.raises(MisuseError, match=said):
        deidentify(source, recipe_of(home, project="p"), out=tmp_path / out, map_path=tmp_path / map_path)

    assert on_disk(tmp_path) == before


def test_links_pipes_and_hidden_files_are_never_opened(tmp_path, home, source):
    os.mkfifo(source / "pipe")
    (source / "link").symlink_to(source / "DOE.txt")
    (source / ".hidden.dcm").write_bytes((source / "DOE-0" / "1.dcm").read_bytes())
    report = deidentify(source, recipe_of(home, project="p"), out=tmp_path / "out", map_path=tmp_path / "map.jsonl")

    assert dict(report.counts) == {"not-a-file": 2, "not-dicom": 1}


def test_a_person_is_told_how_many_which_series_and_what_it_means(tmp_path, home, source, capsys):
    ds = sound("CT", Who("DOE-7"))
    ds.NumberOfFrames = 2
    (source / "frames.dcm").write_bytes(encoded(ds))
    terminal = Terminal(tmp_path, capsys)
    arguments = ("deid", source, "--out", tmp_path / "out", "--map", tmp_path / "map.jsonl", "--home", home.path)
    said = terminal.do("fedrad-site", *arguments).out
    told = json.loads(terminal.do("fedrad-site", *arguments, "--json").out)

    assert "6 of 8 files written" in said
    assert "1  multi-frame (series #4): more than one frame" in said
    assert "DOE" not in said
    assert told["set_aside"]["multi-frame"] == {"files": 1, "series": [1]}
    assert told["unchanged"] == 6


def test_a_misuse_changes_nothing(tmp_path, home, source, capsys):
    terminal = Terminal(tmp_path, capsys)

    assert "belong together" in terminal.fail("fedrad-site", "deid", source, "--home", home.path).error
    for folder in (tmp_path / "nowhere", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        terminal.fail("fedrad-site", "deid", folder, "--out", tmp_path / "out", "--map", tmp_path / "map.jsonl", "--home", home.path)


def test_merged_ids_are_one_patient_in_an_export(tmp_path, home, source):
    from fedrad_client.intake.deid.merging import merge_patients

    merge_patients(home.path, b"DOE-0\nDOE-1\n")
    deidentify(source, recipe_of(home, project="p"), out=tmp_path / "out", map_path=tmp_path / "map.jsonl")

    assert len({dcmread(path).PatientID for path in images(tmp_path / "out")}) == 2


def test_a_decoder_that_ends_its_real_process_costs_one_file_and_says_nothing(tmp_path, home, monkeypatch, capfd):
    dies = Elsewhere(
        "lambda path: __import__('os').write(2, b'a decoder quotes DOE') and path.name == 'third' and __import__('os').abort()"
        " or ({'code': 'not-dicom', 'series': None, 'place': ''}, b'')"
    )
    monkeypatch.setattr(readers, "Exporting", lambda recipe: dies)
    paths = [tmp_path / name for name in ("first", "second", "third", "fourth", "fifth")]
    codes = [done.code for done in readers.exported(paths, recipe_of(home, project="p"))]

    assert codes == ["not-dicom", "not-dicom", "undecodable", "not-dicom", "not-dicom"]
    assert "DOE" not in "".join(capfd.readouterr())
