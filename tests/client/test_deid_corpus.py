"""190 files with 6,600 planted identifiers go through both commands: none comes out, and what should survive does."""

import sys
import warnings
from pathlib import Path

import pytest
from pydicom import config

FOLDER = Path(__file__).resolve().parents[2] / "simulations" / "benchmarks"
sys.path.insert(0, str(FOLDER))  # its modules find each other there
try:
    import deid_corpus
    from deid_cases import cases
    from deid_corpus import Outcome, measure
    from deid_search import found, nibbles
finally:
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    before = config.settings.writing_validation_mode
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, of the wrong values that the corpus writes
            return measure(tmp_path_factory.mktemp("corpus"))
    finally:
        config.settings.writing_validation_mode = before


def test_nothing_planted_is_found_in_any_output(outcome: Outcome) -> None:
    assert outcome.leaked == set()
    assert outcome.cases >= 100
    assert outcome.planted >= 2000


def test_most_of_the_corpus_is_delivered(outcome: Outcome) -> None:
    assert outcome.exported > 150
    assert outcome.ingested > 40  # the protocol's profile takes radiographs only


def test_a_careless_scrubber_leaks_and_is_caught(outcome: Outcome) -> None:
    assert outcome.leaked_by_careless > outcome.planted / 2


@pytest.mark.parametrize("what", ["clean images", "identical pixels", "UID links", "date intervals", "ages", "distinct patients"])
def test_what_should_survive_survives(outcome: Outcome, what: str) -> None:
    kept, all_of_them = outcome.kept[what]

    assert kept == all_of_them > 0


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_search_finds_what_is_planted_in_the_files_themselves() -> None:
    made = [case for case in cases() if not case.name.startswith("odd UT")]  # Arabic digits: looked for as ours
    planted = {text for case in made for text in case.planted}

    assert len(found(planted, [case.content for case in made])) >= 0.999 * len(planted)


@pytest.mark.parametrize(
    "spelled", [lambda text: text.lower(), lambda text: text.decode().encode("utf-16-le"), lambda text: text.hex().encode()]
)
def test_the_search_finds_other_spellings(spelled) -> None:
    secret = b"ZQABCDEFGHJKMN"

    assert found([secret], [b"__" + spelled(secret) + b"__"]) == {secret}


def test_the_search_finds_a_date_inside_a_number_but_not_in_a_pseudonym() -> None:
    assert found([b"19420317"], [b"1.2.3.419420317.5"]) == {b"19420317"}
    assert found([b"19420317"], [b"2.25.100000000000000000000000000019420317"]) == set()


def test_what_hides_in_unused_bits_is_read() -> None:
    words = bytes([0x00, 0x40, 0x01, 0x10])  # 'A' in two words' upper four bits

    assert nibbles(words) == b"A"
    assert deid_corpus.PROTOCOL.is_file()
