"""Withdrawal keeps a patient out from the next order on; what was spent stays spent, and no name is written down (privacy.md, rule 13)."""

import contextlib
import hashlib
import io
import json
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
import typer
from fakes.exports import Person, picture, write_export
from fakes.patients import Asking, network_protocol

from fedrad_client import audit
from fedrad_client.answer import answer
from fedrad_client.cli.cohort import register
from fedrad_client.cohort import withdrawal
from fedrad_client.cohort.dataset import load_dataset
from fedrad_client.cohort.draft import LOCK
from fedrad_client.cohort.store import current, open_cohort
from fedrad_client.cohort.withdrawal import WITHDRAWN, Withdrawal, withdraw, withdrawn
from fedrad_client.intake.deid.merging import merge_patients
from fedrad_client.intake.deid.rules import PseudonymKeys
from fedrad_client.intake.verb import ingest_folder, withdraw_patients
from fedrad_client.privacy import training
from fedrad_client.site import AUDIT, LEDGER, Home, open_site
from fedrad_client.work import run_inline
from fedrad_common.chain import read
from fedrad_common.cli import run_cli
from fedrad_common.errors import BusyError, FedradError, FormatError, MisuseError
from fedrad_common.files import exclusive_lock
from fedrad_common.protocol import render_protocol
from fedrad_common.records import Answer
from fedrad_sim.one_site import asked

PEOPLE = [
    Person(f"Canary-{number}", (picture(number),), ((str(number % 2),),), issuer="EAST" if number == 11 else "") for number in range(12)
]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.callback()(lambda: None)
register(app)


@pytest.fixture
def ask(make_site, coordinator, protocol_bytes: bytes, tmp_path: Path) -> Asking:
    """A site that has ingested everybody and approved a protocol."""
    home, protocol = make_site(), network_protocol(protocol_bytes)
    (home.path / "keys" / "pseudonym.key").write_text(bytes(range(32)).hex() + "\n")  # with which some of them validate
    shutil.rmtree(home.cohort)
    (tmp_path / "protocol.toml").write_bytes(render_protocol(protocol))
    write_export(tmp_path / "export", PEOPLE, ("lesion",))
    take_in(home)
    return Asking.approved(home, coordinator, protocol)


def take_in(home: Home) -> dict[str, object]:
    above = home.path.parent
    source, labels = above / "export" / "dicom", above / "export" / "labels.csv"
    return ingest_folder(home.path, source, protocol=above / "protocol.toml", labels=labels, quiet=True).facts()


def names(*people: Person) -> bytes:
    return "".join(f"{person.patient_id}\t{person.issuer}\n" for person in people).encode()


def of_part(home: Home, part: str) -> list[Person]:
    keys = PseudonymKeys.from_secret(home.pseudonym_secret)
    return [person for person in PEOPLE if person.part(keys, fraction=0.2) == part]


def pictures(home: Home, generation: int = 1) -> dict[bytes, Person]:
    """Whose each image of a generation is."""
    keys = PseudonymKeys.from_secret(home.pseudonym_secret)
    owner, opened = {person.pseudonym(keys): person for person in PEOPLE}, open_cohort(home.cohort, generation)
    return {image.tobytes(): owner[record.patient] for record, image in zip(opened.records, opened.pixels[0], strict=True)}


def answered(ask: Asking, **changed: object) -> Answer:
    with open_site(ask.home.path) as site:
        return answer(site, asked(ask.order(**changed), ask.model, ask.key, ask.home.path), work=run_inline)


def type_in(home: Home, *arguments: str, stdin: bytes, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    with pytest.raises(SystemExit) as end:
        run_cli(app, "fedrad-site", ["withdraw", "--home", str(home.path), *arguments])
    return int(end.value.code or 0)


# ── what it does ──


def test_the_next_order_of_a_run_that_is_under_way_works_without_the_patient(ask: Asking, monkeypatch) -> None:
    owner, seen = pictures(ask.home), []
    train = training.train
    monkeypatch.setattr(
        training, "train", lambda data, **given: (seen.append({owner[image.tobytes()] for image in data.pixels}), train(data, **given))
    )
    gone = of_part(ask.home, "training")[0]
    assert answered(ask).envelope is not None
    withdraw_patients(ask.home.path, names(gone))
    assert answered(ask, round=2).envelope is not None

    assert seen[0] == set(of_part(ask.home, "training"))
    assert seen[1] == seen[0] - {gone}


def test_a_cohort_that_everybody_left_still_answers(ask: Asking) -> None:
    withdraw_patients(ask.home.path, names(*PEOPLE))

    assert answered(ask).envelope is not None
    data = load_dataset(open_cohort(ask.home.cohort), part="training", labels=("lesion",))
    assert (data.n_patients, data.pixels.shape) == (0, (0, 8, 8))


def test_what_was_spent_stays_spent_and_n_stays(ask: Asking) -> None:
    answered(ask)
    before = [(ask.home.path / LEDGER).read_bytes(), *(path.read_bytes() for path in sorted((ask.home.path / "approved").rglob("*.json")))]
    withdraw_patients(ask.home.path, names(*PEOPLE[:5]))

    assert before == [
        (ask.home.path / LEDGER).read_bytes(), *(path.read_bytes() for path in sorted((ask.home.path / "approved").rglob("*.json")))
    ]  # fmt: skip


def test_a_later_ingest_sets_the_patients_files_aside(ask: Asking) -> None:
    withdraw_patients(ask.home.path, names(PEOPLE[3], PEOPLE[11]))
    facts = take_in(ask.home)
    quarantine = (ask.home.cohort / "00002" / "quarantine.jsonl").read_text().splitlines()

    assert (facts["generation"], facts["patients"], facts["quarantined"]) == (2, 10, {"withdrawn": 2})
    assert [json.loads(line) for line in quarantine] == [
        {"code": "withdrawn", "entry": 4, "series": None}, {"code": "withdrawn", "entry": 12, "series": None}
    ]  # fmt: skip
    assert set(pictures(ask.home, 2).values()) == set(PEOPLE) - {PEOPLE[3], PEOPLE[11]}


def test_what_an_ingest_had_read_of_the_patient_is_gone_at_once(ask: Asking) -> None:
    gone = PEOPLE[3]
    pseudonym = gone.pseudonym(PseudonymKeys.from_secret(ask.home.pseudonym_secret)).encode()
    (kept,) = (ask.home.cohort / "read").iterdir()
    image = next(image for image, person in pictures(ask.home).items() if person == gone)
    assert image in kept.read_bytes()
    assert pseudonym in rows(ask.home)
    withdraw_patients(ask.home.path, names(gone))

    assert image not in kept.read_bytes()
    assert pseudonym not in rows(ask.home)
    assert all(other in kept.read_bytes() for other, person in pictures(ask.home).items() if person != gone)


def test_while_an_ingest_runs_its_rows_are_left_to_the_next_one(ask: Asking) -> None:
    (kept,) = (ask.home.cohort / "read").iterdir()
    before = kept.read_bytes()
    with exclusive_lock(ask.home.cohort / LOCK, what="the cohort"):
        withdraw_patients(ask.home.path, names(PEOPLE[3]))
    assert kept.read_bytes() == before
    take_in(ask.home)

    assert kept.read_bytes() != before


def rows(home: Home) -> bytes:
    with contextlib.closing(sqlite3.connect(home.cohort / "states.sqlite")) as database:
        return "\n".join(database.iterdump()).encode()


def test_an_ingest_that_was_under_way_brings_nobody_back(ask: Asking, monkeypatch) -> None:
    """It read the list before; what it publishes is filtered when it is loaded."""
    monkeypatch.setattr("fedrad_client.intake.ingest.withdrawn", lambda _: frozenset())
    monkeypatch.setattr("fedrad_client.intake.verb.check_tombstones", lambda *_: None)
    gone = of_part(ask.home, "training")[0]
    withdraw_patients(ask.home.path, names(gone))
    take_in(ask.home)
    data = load_dataset(open_cohort(ask.home.cohort), part="training", labels=("lesion",))

    assert {pictures(ask.home)[image.tobytes()] for image in data.pixels} == set(of_part(ask.home, "training")) - {gone}


def test_a_patient_who_was_never_here_is_kept_out_later(make_site) -> None:
    home = make_site()
    shutil.rmtree(home.cohort)

    assert withdraw_patients(home.path, b"nobody\n") == Withdrawal(given=1, known=0, already=0, listed=1)
    assert len(withdrawn(home.cohort)) == 1


def test_the_same_patient_id_of_another_issuer_stays(ask: Asking) -> None:
    done = withdraw_patients(ask.home.path, PEOPLE[11].patient_id.encode())

    assert done.known == 0
    assert take_in(ask.home)["patients"] == 12


@pytest.mark.parametrize("written", ["Müller-1", "  Müller-1 \r", "Mu\u0308ller-1", "\ufeffMüller-1"])
def test_blanks_and_the_unicode_form_of_a_name_make_no_difference(make_site, written: str) -> None:
    home = make_site()
    keys = PseudonymKeys.from_secret(home.pseudonym_secret)
    withdraw_patients(home.path, written.encode())

    assert withdrawn(home.cohort) == {Person("Müller-1", (), ()).pseudonym(keys)}


# ── what is written down ──


def test_no_name_and_nothing_that_could_be_made_without_the_key_is_written_down(ask: Asking, make_site) -> None:
    withdraw_patients(ask.home.path, names(*PEOPLE))
    path = ask.home.cohort / WITHDRAWN
    content = b"".join(file.read_bytes() for file in ask.home.path.rglob("*") if file.is_file())

    assert b"Canary" not in content
    for made in (hashlib.sha256, hashlib.sha1, hashlib.md5):
        for text in (person.patient_id for person in PEOPLE):
            assert made(text.encode()).hexdigest()[:16].encode() not in path.read_bytes()
    other = make_site("south")
    withdraw_patients(other.path, names(*PEOPLE))
    assert not withdrawn(other.cohort) & withdrawn(ask.home.cohort)
    assert path.stat().st_mode & 0o077 == 0


def test_the_list_says_nothing_about_who_withdrew_when(make_site) -> None:
    lists = []
    for order in (PEOPLE, PEOPLE[::-1]):
        home = make_site(f"site-{len(lists)}")
        (home.path / "keys" / "pseudonym.key").write_text("ab" * 32)
        for person in order:
            withdraw_patients(home.path, names(person))
        lists.append((home.cohort / WITHDRAWN).read_bytes())

    assert lists[0] == lists[1]


def test_the_audit_log_gets_counts_only(ask: Asking) -> None:
    withdraw_patients(ask.home.path, names(*PEOPLE[:3]))
    withdraw_patients(ask.home.path, names(*PEOPLE[2:4]))
    entries = [entry.body for entry in read(ask.home.path / AUDIT, audit.KIND) if entry.type == "withdraw"]

    assert [{**body, "salt": ""} for body in entries] == [
        {"listed": 3, "patients": 3, "salt": ""}, {"listed": 4, "patients": 1, "salt": ""},
    ]  # fmt: skip


# ── the command ──


def test_names_come_from_stdin_and_the_answer_says_what_withdrawal_is(ask: Asking, monkeypatch, capsys) -> None:
    assert type_in(ask.home, stdin=names(*PEOPLE[:2]) + b"\nelsewhere\n", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr()

    assert shown.out.splitlines()[0] == "withdrawn: 3 patients, 2 of them with images here, 0 of them before; 3 in all"
    for words in (
        "no later ingest",
        "keyed tombstone",
        "what was spent",
        "declared size",
        "not unlearned",
        "warning: 1 are in no generation",
    ):
        assert words in shown.out
    assert "Canary" not in shown.out + shown.err


def test_names_come_from_a_file_and_a_program_gets_json(ask: Asking, monkeypatch, capsys, tmp_path: Path) -> None:
    (tmp_path / "ids").write_bytes(names(PEOPLE[0]))
    type_in(ask.home, "--ids", str(tmp_path / "ids"), stdin=b"", monkeypatch=monkeypatch)
    capsys.readouterr()
    type_in(ask.home, "--ids", str(tmp_path / "ids"), "--json", stdin=b"", monkeypatch=monkeypatch)

    assert json.loads(capsys.readouterr().out) == {"already": 1, "given": 1, "known": 1, "runs": [], "unknown": 0, "withdrawn": 1}


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["Canary-1"], b"", "an id on the command line stays in the shell's history"),
        ([], b"", "no id given"),
        ([], b"\n \n", "no id given"),
        ([], b"\tEAST\n", "or a line without one"),
        ([], b"Canary\xff\n", "not UTF-8 text"),
        (["--ids", "nowhere"], b"", "--ids: nowhere: no such file"),
    ],
)
def test_misuse_is_said_without_repeating_a_name_and_changes_nothing(ask: Asking, monkeypatch, capsys, arguments, stdin, message) -> None:
    before = (ask.home.path / AUDIT).read_bytes()

    assert type_in(ask.home, *arguments, stdin=stdin, monkeypatch=monkeypatch) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert "hint: " in shown.err
    assert "Canary" not in shown.out + shown.err
    assert (ask.home.path / AUDIT).read_bytes() == before
    assert not (ask.home.cohort / WITHDRAWN).exists()


# ── what had used their images ──


def test_the_runs_that_had_used_the_patients_are_listed_with_their_rounds(ask: Asking, monkeypatch, capsys) -> None:
    trained, validated = of_part(ask.home, "training")[:2], of_part(ask.home, "validation")[:1]
    for number in (1, 2):
        assert answered(ask, round=number).envelope is not None
    answered(ask, kind="evaluate")
    type_in(ask.home, stdin=names(*trained), monkeypatch=monkeypatch)
    shown = capsys.readouterr().out

    run = ask.order().run
    assert f"  runs         {run} (tiny): 2 of them trained in rounds 1–2; 2 answers left" in shown
    assert "what these runs spent is not given back" in shown
    type_in(ask.home, "--json", stdin=names(*trained, *validated), monkeypatch=monkeypatch)
    (use,) = json.loads(capsys.readouterr().out)["runs"]
    assert use == {
        "evaluated": [1], "generation": 1, "left": 3, "people": 3, "protocol": ask.protocol.hash, "run": run, "trained": [1, 2]
    }  # fmt: skip


def test_a_patient_whose_images_no_run_has_used_is_told_so(ask: Asking, monkeypatch, capsys) -> None:
    answered(ask)
    validating = of_part(ask.home, "validation")[0]
    type_in(ask.home, stdin=names(validating), monkeypatch=monkeypatch)

    assert "  runs         none has used their images" in capsys.readouterr().out


def test_a_run_whose_generation_is_gone_may_have_used_them(ask: Asking) -> None:
    answered(ask)
    shutil.rmtree(ask.home.cohort / "00001")
    (use,) = withdraw_patients(ask.home.path, names(PEOPLE[0])).uses

    assert (use.people, use.trained) == (None, (1,))
    assert "it cannot be told whether any of them trained in round 1" in use.line(None)


def test_an_answer_that_was_computed_and_never_left_is_counted_as_used(ask: Asking, monkeypatch) -> None:
    monkeypatch.setattr("fedrad_client.answer.seal", lambda *_, **__: (_ for _ in ()).throw(FedradError("the machine died")))
    answered(ask)
    (use,) = withdraw_patients(ask.home.path, names(of_part(ask.home, "training")[0])).uses

    assert (use.trained, use.left) == ((1,), 0)


def test_a_damaged_ledger_keeps_no_patient_in(ask: Asking, monkeypatch, capsys) -> None:
    answered(ask)
    content = bytearray((ask.home.path / LEDGER).read_bytes())
    content[-20] ^= 1
    (ask.home.path / LEDGER).write_bytes(content)

    assert type_in(ask.home, stdin=names(PEOPLE[0]), monkeypatch=monkeypatch) == 0
    assert "the runs that used their images cannot be listed" in capsys.readouterr().out
    assert len(withdrawn(ask.home.cohort)) == 1


def test_a_patient_who_was_two_before_a_merge_is_found_under_both_names(ask: Asking) -> None:
    one, other = of_part(ask.home, "training")[0], of_part(ask.home, "validation")[0]
    answered(ask)
    answered(ask, kind="evaluate")
    merge_patients(ask.home.path, names(one, other))
    (use,) = withdraw_patients(ask.home.path, names(one)).uses

    assert (use.trained, use.evaluated) == ((1,), (1,))


# ── what goes wrong ──


def test_between_rounds_while_an_answer_is_made_it_is_refused(ask: Asking) -> None:
    with open_site(ask.home.path), pytest.raises(BusyError):
        withdraw_patients(ask.home.path, names(PEOPLE[0]))

    assert not (ask.home.cohort / WITHDRAWN).exists()


def test_a_full_disk_changes_nothing(ask: Asking, monkeypatch) -> None:
    withdraw_patients(ask.home.path, names(PEOPLE[0]))
    before = (ask.home.cohort / WITHDRAWN).read_bytes()

    def full(*_: object, **__: object) -> None:
        raise FedradError("withdrawn.jsonl: no space left on the disk", hint="free space")

    monkeypatch.setattr(withdrawal, "write_atomic", full)
    with pytest.raises(FedradError, match="no space left"):
        withdraw_patients(ask.home.path, names(PEOPLE[1]))

    assert (ask.home.cohort / WITHDRAWN).read_bytes() == before
    assert [entry.type for entry in read(ask.home.path / AUDIT, audit.KIND)].count("withdraw") == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1] + b"x",
        lambda content: b"\n".join(content.splitlines()[:-1]),
        lambda content: content.replace(b"withdrawn-1", b"withdrawn-2"),
        lambda content: b"",
        lambda content: content + content.splitlines()[-1],
    ],
)
def test_a_damaged_list_stops_training_ingest_and_withdrawal(ask: Asking, damage) -> None:
    withdraw_patients(ask.home.path, names(*PEOPLE[:2]))
    path = ask.home.cohort / WITHDRAWN
    path.write_bytes(damage(path.read_bytes()))

    assert answered(ask).envelope is None
    for attempt in (lambda: take_in(ask.home), lambda: withdraw_patients(ask.home.path, names(PEOPLE[3]))):
        with pytest.raises(FormatError, match="is damaged") as caught:
            attempt()
        assert "backup" in caught.value.hint


def test_a_cohort_folder_that_was_deleted_to_begin_anew_brings_nobody_back(ask: Asking) -> None:
    withdraw_patients(ask.home.path, names(*PEOPLE[:2]))
    shutil.rmtree(ask.home.cohort)

    with pytest.raises(FormatError, match="lacks 2 of 2 withdrawn patients"):
        take_in(ask.home)
    withdraw_patients(ask.home.path, names(*PEOPLE[:2]))
    assert take_in(ask.home)["patients"] == 10


def test_a_list_restored_from_before_a_withdrawal_answers_nothing_and_spends_nothing(ask: Asking) -> None:
    withdraw_patients(ask.home.path, names(PEOPLE[0]))
    older = (ask.home.cohort / WITHDRAWN).read_bytes()
    withdraw_patients(ask.home.path, names(PEOPLE[1]))
    for content in (older, None):
        if content is None:
            (ask.home.cohort / WITHDRAWN).unlink()
        else:
            (ask.home.cohort / WITHDRAWN).write_bytes(content)
        assert answered(ask) == Answer(refusal="internal")
    with open_site(ask.home.path) as site:
        assert site.ledger.account.answers == 0
        assert site.audit.entries[-1].body["reason"] == "withdrawals-lost"


def test_another_key_is_refused(ask: Asking) -> None:
    withdraw_patients(ask.home.path, names(PEOPLE[0]))
    (ask.home.path / "keys" / "pseudonym.key").write_text("ab" * 32)

    with pytest.raises(MisuseError, match="another pseudonym key"):
        withdraw_patients(ask.home.path, names(PEOPLE[1]))


def test_a_damaged_old_generation_does_not_stand_in_the_way(ask: Asking) -> None:
    take_in(ask.home)
    (ask.home.cohort / f"{current(ask.home.cohort):05d}" / "records.jsonl").write_bytes(b"{")

    assert withdraw_patients(ask.home.path, names(PEOPLE[0])).listed == 1


def test_a_repeated_name_counts_once(tmp_path: Path) -> None:
    assert withdraw(tmp_path, ["a" * 32, "a" * 32], key="k").given == 1
