"""Two IDs of one person are one patient from then on; nobody moves between training and validation, and no name is written down."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest
from fakes.exports import Person, picture, write_export
from fakes.patients import Asking, network_protocol
from fakes.terminal import Terminal

from fedrad_client import audit
from fedrad_client.answer import answer
from fedrad_client.cohort.dataset import load_dataset
from fedrad_client.cohort.merged import MERGED, Merge, read_table
from fedrad_client.cohort.split import Part, part_of
from fedrad_client.cohort.store import current, open_cohort
from fedrad_client.cohort.withdrawal import tombstones, withdrawn
from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.deid.keys import PseudonymKeys
from fedrad_client.intake.deid.merges import Merges
from fedrad_client.intake.deid.merging import Merger, Merging, merge_patients
from fedrad_client.intake.deid.subject import Subject, identified
from fedrad_client.intake.verb import ingest_folder, withdraw_patients
from fedrad_client.privacy.ledger import read_ledger
from fedrad_client.site import AUDIT, LEDGER, Home, open_site
from fedrad_client.work import run_inline
from fedrad_common.chain import read
from fedrad_common.errors import FormatError, MisuseError
from fedrad_common.protocol import render_protocol
from fedrad_sim.one_site import asked

PEOPLE = [Person(f"Canary-{number}", (picture(number),), ((str(number % 2),),)) for number in range(12)]
KEYS = PseudonymKeys.from_secret(bytes(range(32)))
FRACTION = 0.5


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


def blocks(*people: tuple[Person, ...]) -> bytes:
    return "\n\n".join("\n".join(person.patient_id for person in ids) for ids in people).encode()


def of_part(home: Home, part: Part) -> list[Person]:
    keys, fraction = PseudonymKeys.from_secret(home.pseudonym_secret), read_ledger(home.path / LEDGER)[0].validation_fraction
    return [person for person in PEOPLE if person.part(keys, fraction=fraction) == part]


def trained_on(home: Home, part: Part = "training") -> int:
    return load_dataset(open_cohort(home.cohort), part=part, labels=("lesion",)).n_patients


# ── the table alone ──


def merger(*used: Subject) -> Merger:
    names = {who.pseudonym(KEYS) for who in used}
    return Merger(KEYS, FRACTION, names.__contains__)


def people(part: Part, count: int) -> list[Subject]:
    numbered = (identified(f"P{number}") for number in range(200))
    return [who for who in numbered if part_of(who.identity, key=KEYS.split, fraction=FRACTION) == part][:count]


def joined(made: Merger, *groups: list[Subject]) -> Merges:
    table = read_table(Path("/nowhere"))
    for group in groups:
        table, _ = made.join(table, group)
    return Merges.of(table, KEYS)


def test_all_ids_of_a_person_lead_to_the_first_one():
    first, *others = people("training", 4)
    asked = joined(merger(), [first, *others])

    assert {asked.person(who, KEYS) for who in (first, *others)} == {first}


def test_merges_add_up_whatever_their_order():
    a, b, c, d = people("training", 4)

    for order in ([[a, b], [c, d], [b, d]], [[a, b], [b, c], [c, d]], [[a, d], [a, c], [a, b]]):
        assert {joined(merger(), *order).person(who, KEYS) for who in (a, b, c, d)} == {a}


def test_who_was_used_stays_and_others_join():
    (new,), (used,) = people("validation", 1), people("training", 1)

    assert joined(merger(used), [new, used]).person(new, KEYS) == used


def test_who_stood_in_both_parts_is_in_neither():
    (one,), (other,) = people("validation", 1), people("training", 1)
    asked = joined(merger(one, other), [one, other])

    for who in (one, other):
        with pytest.raises(Quarantined, match="two-parts"):
            asked.person(who, KEYS)


def test_who_joins_somebody_of_both_parts_is_in_neither():
    (one,), (other, third) = people("validation", 1), people("training", 2)
    asked = joined(merger(one, other, third), [one, other], [third, one])

    with pytest.raises(Quarantined, match="two-parts"):
        asked.person(third, KEYS)


def test_one_persons_merge_changes_nobody_else():
    a, b, c, d = people("training", 4)
    asked = joined(merger(), [a, b])

    assert [asked.person(who, KEYS) for who in (c, d)] == [c, d]


def test_a_changed_row_is_refused():
    a, b, c = people("training", 3)
    asked = joined(merger(), [a, b])
    (row,) = asked.rows.values()
    wrong = Merge(row.alias, c.pseudonym(KEYS), row.apart, row.sealed)

    with pytest.raises(FormatError, match="a row was changed"):
        Merges({wrong.alias: wrong}).resolve(b, KEYS)


def test_another_key_is_refused():
    table, _ = merger().join(read_table(Path("/nowhere")), people("training", 2))

    with pytest.raises(MisuseError, match="another pseudonym key"):
        Merges.of(table, PseudonymKeys.from_secret(bytes(32)))


# ── at a site ──


def test_before_the_next_ingest_the_other_id_is_left_out_and_after_it_is_the_same_person(ask: Asking):
    one, other = of_part(ask.home, "training")[:2]
    before = trained_on(ask.home)
    done = merge_patients(ask.home.path, blocks((one, other)))
    between = trained_on(ask.home)
    facts = take_in(ask.home)
    keys = PseudonymKeys.from_secret(ask.home.pseudonym_secret)
    owners = [record.patient for record in open_cohort(ask.home.cohort).records]

    assert done == Merging(people=1, merged=1, already=0, apart=0, withdrawn=0, listed=1)
    assert between == before - 1
    assert (facts["patients"], facts["images"]) == (11, 12)
    assert owners.count(one.pseudonym(keys)) == 2
    assert other.pseudonym(keys) not in owners


def test_everybody_else_stays_where_they_were(ask: Asking):
    before = {record.patient: record.part for record in open_cohort(ask.home.cohort).records}
    merge_patients(ask.home.path, blocks(tuple(of_part(ask.home, "training")[:3]), tuple(PEOPLE[-2:])))
    take_in(ask.home)

    assert all(before[record.patient] == record.part for record in open_cohort(ask.home.cohort).records)


def test_nobody_moves_from_validation_to_training(ask: Asking):
    one, other = of_part(ask.home, "training")[0], of_part(ask.home, "validation")[0]
    counts = trained_on(ask.home), trained_on(ask.home, "validation")
    done = merge_patients(ask.home.path, blocks((one, other)))
    after = trained_on(ask.home), trained_on(ask.home, "validation")
    facts = take_in(ask.home)

    assert done.apart == 1
    assert after == (counts[0] - 1, counts[1] - 1) == (trained_on(ask.home), trained_on(ask.home, "validation"))
    assert facts["quarantined"] == {"two-parts": 2}


def test_an_id_that_was_never_here_joins_whatever_its_hash_says(ask: Asking):
    here = of_part(ask.home, "training")[0]
    new = [Person(f"New-{number}", (), ()) for number in range(20)]
    done = merge_patients(ask.home.path, blocks((*new, here)))
    keys = PseudonymKeys.from_secret(ask.home.pseudonym_secret)

    assert (done.merged, done.apart) == (20, 0)
    assert {row.person for row in read_table(ask.home.cohort).merges} == {here.pseudonym(keys)}


def test_where_a_generation_is_gone_every_id_may_have_been_used(ask: Asking):
    shutil.copytree(ask.home.cohort / "00001", ask.home.cohort / "00002")
    (ask.home.cohort / "current").write_text("00002\n")
    shutil.rmtree(ask.home.cohort / "00001")

    done = merge_patients(ask.home.path, blocks((of_part(ask.home, "training")[0], *(Person(f"New-{n}", (), ()) for n in range(20)))))

    assert done.apart == 1


def test_a_person_who_withdrew_under_one_id_withdrew_under_all(ask: Asking):
    one, other = of_part(ask.home, "training")[:2]
    withdraw_patients(ask.home.path, other.patient_id.encode())
    done = merge_patients(ask.home.path, blocks((one, other)))
    facts = take_in(ask.home)

    assert done.withdrawn == 1
    assert facts["quarantined"] == {"withdrawn": 2}


def test_withdrawing_by_the_other_id_withdraws_the_person(ask: Asking):
    one, other = of_part(ask.home, "training")[:2]
    merge_patients(ask.home.path, blocks((one, other)))
    withdraw_patients(ask.home.path, other.patient_id.encode())

    assert take_in(ask.home)["quarantined"] == {"withdrawn": 2}


def test_the_same_again_changes_nothing(ask: Asking):
    one, other = of_part(ask.home, "training")[:2]
    merge_patients(ask.home.path, blocks((one, other)))
    before = (ask.home.cohort / MERGED).read_bytes(), (ask.home.path / AUDIT).read_bytes()
    done = merge_patients(ask.home.path, blocks((one, other)))

    assert (done.merged, done.already) == (0, 1)
    assert before == ((ask.home.cohort / MERGED).read_bytes(), (ask.home.path / AUDIT).read_bytes())


def test_what_was_spent_stays_spent(ask: Asking):
    before = (ask.home.path / LEDGER).read_bytes()
    merge_patients(ask.home.path, blocks(tuple(PEOPLE)))

    assert (ask.home.path / LEDGER).read_bytes() == before


def test_the_audit_log_has_the_count_and_no_name(ask: Asking):
    merge_patients(ask.home.path, blocks(tuple(of_part(ask.home, "training")[:3])))
    entry = read(ask.home.path / AUDIT, audit.KIND)[-1]
    content = b"".join(file.read_bytes() for file in ask.home.path.rglob("*") if file.is_file())

    assert entry.type == "merge"
    assert {name: value for name, value in entry.body.items() if name != "salt"} == {"ids": 2, "listed": 2}
    assert b"Canary" not in content
    assert (ask.home.cohort / MERGED).stat().st_mode & 0o077 == 0


def test_a_lost_table_stops_ingest_and_answers(ask: Asking):
    merge_patients(ask.home.path, blocks(tuple(of_part(ask.home, "training")[:2])))
    (ask.home.cohort / MERGED).unlink()
    with pytest.raises(FormatError, match="lacks 1 of 1 merged ids"):
        take_in(ask.home)
    with open_site(ask.home.path) as site:
        found = answer(site, asked(ask.order(), ask.model, ask.key, ask.home.path), work=run_inline)

    assert found.envelope is None
    assert current(ask.home.cohort) == 1


@pytest.mark.parametrize("damage", [b"", b"{}\n", b'{"format":"fedrad-merged-9","key":"x","merges":0}\n'])
def test_a_damaged_table_is_refused(tmp_path: Path, damage: bytes):
    (tmp_path / MERGED).write_bytes(damage)

    with pytest.raises(FormatError, match="damaged"):
        withdrawn(tmp_path)


@pytest.mark.parametrize("text", [b"", b"\n\n", b"P1", b"P1\nP1", b"P1\n\nP2", b"\xff\xfe", b"P1\nUNKNOWN", b"P1\n\tA"])
def test_what_names_no_two_ids_of_a_person_is_refused_unquoted(make_site, text: bytes):
    home = make_site()
    with pytest.raises(MisuseError) as caught:
        merge_patients(home.path, text)

    assert "P1" not in str(caught.value) + caught.value.hint
    assert tombstones(home.cohort) == frozenset()


def test_ids_come_from_stdin_or_a_file_and_never_from_the_command_line(ask: Asking, tmp_path, capsys, monkeypatch):
    terminal = Terminal(tmp_path, capsys)
    one, other, third, *_ = of_part(ask.home, "training")
    (tmp_path / "people.txt").write_bytes(blocks((one, other)))
    said = json.loads(terminal.do("fedrad-site", "merge", "--ids", tmp_path / "people.txt", "--home", ask.home.path, "--json").out)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(blocks((one, third)))))
    shown = terminal.do("fedrad-site", "merge", "--home", ask.home.path).out
    refused = terminal.fail("fedrad-site", "merge", one.patient_id, other.patient_id, "--home", ask.home.path)

    assert (said["people"], said["merged"], said["listed"]) == (1, 1, 1)
    assert "merged: 1 people" in shown
    assert "Canary" not in shown + refused.err
