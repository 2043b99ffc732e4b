"""Attacks on each validator: no name, number or date passes a rule, however it is written."""

import re
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.multival import MultiValue
from pydicom.valuerep import DSdecimal, DSfloat, PersonName

from fedrad_client.intake.deid.export_rules import ALL_RULES, EXPORT_RULES
from fedrad_client.intake.deid.keys import PseudonymKeys
from fedrad_client.intake.deid.rules import RULES, ruled
from fedrad_client.intake.deid.subject import Subject
from fedrad_client.intake.deid.values import Cloak, age, new_uid, number, numbers, one_of, shifted, terms_of, whole

KEYS = PseudonymKeys.from_secret(bytes(range(32)))
CLOAK = Cloak(KEYS, Subject("P1", "").shift(KEYS))
BY_KEYWORD = {rule.keyword: rule for rule in ALL_RULES}
DIGITS_ELSEWHERE = ["١٩٤٢", "１９４２", "१९४२", "²³", "1_000", "0x10", " 12", "1e2", "NaN", "Infinity"]


def kept(apply, value):
    """What a rule makes of it; a fault is none, as in `ruled`."""
    try:
        return apply(value, CLOAK)
    except Exception:
        return None


@pytest.mark.parametrize("text", [*DIGITS_ELSEWHERE, "12", "DOE", b"12", True, None, PersonName("DOE^J")])
def test_a_number_is_never_made_of_what_is_no_number(text):
    assert kept(number(0, 1e6), text) is None
    assert kept(whole(0, 1000000), text) is None
    assert kept(numbers(1, 3, 0, 1e6), text) is None


@pytest.mark.parametrize("value", [DSfloat("0.19420317"), DSdecimal("0.19420317"), Decimal("0.19420317"), 0.19420317])
def test_a_number_has_too_few_digits_for_a_date_or_a_record_number(value):
    assert kept(number(0, 1), value) == 0.194203


@pytest.mark.parametrize("rule", [rule for rule in (*RULES, *EXPORT_RULES) if isinstance(kept(rule.apply, 1.0), int | float)])
def test_no_scalar_holds_eight_digits(rule):
    assert kept(rule.apply, 19420317) is None
    assert kept(rule.apply, 1942031712) is None


def test_a_sequence_of_numbers_is_not_made_of_the_letters_of_a_text():
    assert kept(BY_KEYWORD["PixelSpacing"].apply, "12") is None
    assert kept(BY_KEYWORD["ImagePositionPatient"].apply, "123") is None
    assert kept(BY_KEYWORD["ImageOrientationPatient"].apply, "101010") is None


def test_more_or_fewer_values_than_the_element_has_do_not_exist():
    assert kept(BY_KEYWORD["PixelSpacing"].apply, [1.0, 1.0, 1.0]) is None
    assert kept(BY_KEYWORD["KVP"].apply, MultiValue(float, [1.0, 2.0])) is None
    assert kept(BY_KEYWORD["Modality"].apply, ["CT", "MR"]) is None
    assert kept(BY_KEYWORD["StudyDate"].apply, ["20200101", "20200102"]) is None


@pytest.mark.parametrize(
    "day",
    ["19420317", "1942.03.17", "٢٠٢٠٠١٠١", "20200132", "20201301", "2020-01-01", "20.20.0101", "2020010", "202001011", "99991231", "DOE"],
)
def test_what_is_no_day_of_an_examination_does_not_exist(day):
    assert kept(shifted, day) is None


def test_a_day_and_a_time_in_one_element_are_no_day():
    assert kept(shifted, "20200101093017") is None


@pytest.mark.parametrize(
    ("said", "kept_as"),
    [
        ("045Y", "045Y"), ("45Y", "045Y"), ("045y", "045Y"), ("012M", "012M"), ("006W", "006W"), ("002D", "002D"), ("000D", "000D"),
        ("089Y", "089Y"), ("090Y", "090Y"), ("129Y", "090Y"), ("1079M", "089Y"), ("1080M", "090Y"), ("1200M", "090Y"), ("4700W", "090Y"),
        ("999Y", None), ("194Y", None), ("045", None), ("Y045", None), ("04 Y", None), ("٠٤٥Y", None), ("-45Y", None), ("45.5Y", None),
        ("1942Y", None), ("19420Y", None), ("045Y\\046Y", None), ("DOEY", None),
    ],
)  # fmt: skip
def test_ages_are_written_one_way_and_the_oldest_are_one(said, kept_as):
    assert kept(age, said) == kept_as


def test_a_term_is_the_lists_own_spelling():
    assert kept(one_of(frozenset({"SC"})), "ſc") == "SC"
    assert kept(one_of(frozenset({"SC"})), "SC DOE") is None


def test_terms_end_before_the_first_that_is_none():
    both = terms_of(frozenset({"ORIGINAL"}), frozenset({"PRIMARY"}))

    assert kept(both, ["ORIGINAL", "PRIMARY", "DOE"]) == "ORIGINAL\\PRIMARY"
    assert kept(both, ["ORIGINAL", "DOE", "PRIMARY"]) == "ORIGINAL"
    assert kept(both, ["DOE", "PRIMARY"]) is None
    assert kept(both, "ORIGINAL") == "ORIGINAL"


def test_a_maker_is_told_by_its_first_word_alone():
    maker = BY_KEYWORD["Manufacturer"].apply

    assert kept(maker, "SIEMENS Healthineers, St Elsewhere, DOE") == "SIEMENS"
    assert kept(maker, "GEORGE DOE") is None
    assert kept(maker, "ge medical") == "GE"
    assert kept(maker, "DOE SIEMENS") is None


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.keyword)
@pytest.mark.parametrize(
    "value", ["ZQXJKVDOE", "ZQXJKVDOE^JOHN", ["ZQXJKVDOE"] * 6, 7194203171, "+44 7194203171", ["7194203171"] * 3, b"ZQXJKVDOE"]
)
def test_no_rule_lets_a_name_or_a_telephone_number_through(rule, value):
    assert not any(secret in str(kept(rule.apply, value)) for secret in ("ZQXJKVDOE", "7194203171"))


def test_a_rule_that_fails_leaves_nothing_and_says_nothing(dataset, capsys):
    ds = dataset()
    ds.add_new("KVP", "OB", b"DOE\0")

    assert "KVP" not in ruled(ds, RULES, CLOAK)
    assert capsys.readouterr() == ("", "")


ANYTHING = st.one_of(
    st.text(max_size=80), st.binary(max_size=20), st.lists(st.text(max_size=20), max_size=7), st.integers(), st.floats(), st.decimals(),
    st.lists(st.floats(), max_size=7), st.lists(st.integers(), max_size=7), st.dates(), st.none(), st.booleans(),
)  # fmt: skip
COMPUTED = re.compile(r"2\.25\.[0-9]+|[0-9]{8}")  # a UID or a day that this program made


@settings(max_examples=300, deadline=None)
@given(value=ANYTHING)
def test_whatever_comes_in_what_comes_out_is_short_plain_and_no_long_number(value):
    for rule in (*RULES, *EXPORT_RULES):
        out = kept(rule.apply, value)
        for item in out if isinstance(out, list) else [] if out is None else [out]:
            if isinstance(item, str):
                assert item.isascii()
                assert len(item) <= 60
                assert rule.apply not in (new_uid, shifted) or COMPUTED.fullmatch(item)
            else:
                assert item == float(f"{item:.6g}")
