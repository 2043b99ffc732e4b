"""A label table is read strictly, and what is wrong is named by place, never by what stands there."""

import pytest

from fedrad_client.cohort.labels import Key, Known, read_labels
from fedrad_common.errors import MisuseError


@pytest.fixture
def table(tmp_path):
    def write(text, names=()):
        (tmp_path / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_labels(tmp_path / "labels.csv", names)

    return write


def test_labels_are_found_by_the_key(table):
    labels = table("SOPInstanceUID,Mass,Nodule\n1.2,1,0\n1.3,,1\n")

    assert labels.names == ("Mass", "Nodule")
    assert labels.find({"SOPInstanceUID": "1.2"}) == Known((1, 0), False, (Key("SOPInstanceUID", "1.2"),))
    assert labels.find({"SOPInstanceUID": "1.3"}).values == (None, 1)
    assert labels.find({"SOPInstanceUID": "1.4"}) == Known((None, None), False, ())


def test_only_the_asked_columns_are_read_in_the_asked_order(table):
    labels = table("PatientID,Mass,Comment,Nodule\nP1,1,see report,0\n", ("Nodule", "Mass"))

    assert labels.find({"PatientID": "P1"}).values == (0, 1)


def test_each_label_comes_from_the_most_specific_row_that_has_it(table):
    labels = table("SOPInstanceUID,SeriesInstanceUID,PatientID,A,B,C\n,,P1,0,0,0\n,1.5,,1,,1\n1.2,1.5,P1,,1,0\n")

    assert labels.find({"SOPInstanceUID": "1.2", "SeriesInstanceUID": "1.5", "PatientID": "P1"}).values == (1, 1, 0)


def test_a_spreadsheets_bom_blanks_and_floats_are_understood(table):
    labels = table("\ufeffPatientID, Mass\r\n P1 ,1.0\r\n\r\nP2,0.0\r\n")

    assert (labels.find({"PatientID": "P1"}).values, labels.find({"PatientID": "P2"}).values) == ((1,), (0,))


def test_two_rows_that_agree_are_one(table):
    assert table("PatientID,A,B\nP1,1,\nP1,1,0\n").find({"PatientID": "P1"}).values == (1, 0)


@pytest.mark.parametrize("rows", ["P1,1,1\nP1,0,1\n", "P1,0,1\nP1,1,1\nP1,1,\n"])
def test_rows_that_contradict_each_other_cost_their_key_that_label_and_nobody_else_anything(table, rows):
    labels = table(f"PatientID,A,B\n{rows}P2,1,0\n")

    assert labels.find({"PatientID": "P1"}) == Known((None, 1), True, (Key("PatientID", "P1", "P1"),))
    assert labels.find({"PatientID": "P2"}) == Known((1, 0), False, (Key("PatientID", "P2", "P2"),))
    assert labels.contradictory == 1


def test_a_contradiction_is_not_settled_by_a_coarser_row(table):
    labels = table("SOPInstanceUID,PatientID,A\n1.2,P1,1\n1.2,P1,0\n,P1,1\n")

    assert labels.find({"SOPInstanceUID": "1.2", "PatientID": "P1"}).values == (None,)
    assert labels.find({"SOPInstanceUID": "1.3", "PatientID": "P1"}).values == (1,)


def test_a_row_that_names_a_patient_speaks_of_nobody_elses_image_of_that_name(table):
    labels = table("SOPInstanceUID,PatientID,A\n1.2,P1,1\n1.2,P2,0\n1.3,,1\n")

    assert labels.find({"SOPInstanceUID": "1.2", "PatientID": "P1"}) == Known((1,), False, (Key("SOPInstanceUID", "1.2", "P1"),))
    assert labels.find({"SOPInstanceUID": "1.2", "PatientID": "P2"}).values == (0,)
    assert labels.find({"SOPInstanceUID": "1.2", "PatientID": "P3"}).values == (None,)
    assert labels.find({"SOPInstanceUID": "1.3", "PatientID": "P3"}).values == (1,)


def test_the_same_patient_id_of_another_issuer_is_somebody_else(table):
    labels = table("PatientID,IssuerOfPatientID,A\nP1,,1\nP1,EAST,0\nP1,EAST,1\n")

    assert labels.names == ("A",)
    assert labels.find({"PatientID": "P1"}, issuer="WEST").values == (1,)
    assert labels.find({"PatientID": "P1"}, issuer="EAST").contradictory


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Name,Mass\nDOE,1\n", r"line 1: no key column among 2 columns"),
        ("DOE;PatientID;Mass\n", r"line 1: no key column among 1 columns"),
        ("PatientID,Mass\nP1,1\nDOE,yes\n", r"line 3: column 2: is not 0, 1 or empty"),
        ("PatientID,Mass\nDOE,-1\n", r"line 2: column 2"),
        ("PatientID,Mass\nDOE,1,0\n", r"line 2: 3 columns, the header has 2"),
        ("PatientID,Mass\n,1\n", r"line 2: no key"),
        ("PatientID,Mass,Mass\nDOE,1,1\n", r"line 1: two columns have the same name"),
        ("PatientID\nDOE\n", r"line 1: no label column"),
        ("PatientID,9 DOE^JOHN\nP1,1\n", r"line 1: column 2: is not a label's name"),
        ('PatientID,Mass\n"DOE,1\n', r"line 2: is not CSV"),
        ("PatientID,Mass\n", r"has no rows"),
        ("", r"line 1: no key column among 0 columns"),
        (b"PatientID,Mass\nDOE\xff,1\n", r"is not UTF-8 text"),
    ],
)
def test_a_mistake_is_named_by_its_place_and_not_quoted(table, text, message):
    with pytest.raises(MisuseError, match=rf"^labels\.csv: {message}") as caught:
        table(text)

    assert "DOE" not in str(caught.value) + caught.value.hint
    assert caught.value.exit_code == 2


def test_a_missing_label_is_named(table):
    with pytest.raises(MisuseError, match="no column 'Nodule'"):
        table("PatientID,Mass\nP1,1\n", ("Mass", "Nodule"))


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(MisuseError, match=r"^labels\.csv: no such file"):
        read_labels(tmp_path / "labels.csv")


def test_a_table_does_not_print_its_keys(table):
    assert "DOE" not in repr(table("PatientID,Mass\nDOE,1\n"))
