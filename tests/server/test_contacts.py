"""When each site was last heard: written by the server, read by everybody else."""

import pytest
from fakes.roots import unreadable

from fedrad_common.errors import FedradError
from fedrad_server.contacts import FILE, ContactBook, ages


def test_the_age_of_a_contact_is_what_has_passed_since(tmp_path):
    book = ContactBook(tmp_path)
    book.note("north", 1000.0)
    book.flush({"north", "south"})

    assert ages(tmp_path, 1007.5) == {"north": 7.5}


def test_a_site_that_was_never_heard_has_no_age(tmp_path):
    assert ages(tmp_path, 1000.0) == {}


def test_a_restart_forgets_no_contact(tmp_path):
    book = ContactBook(tmp_path)
    book.note("north", 1000.0)
    book.flush({"north"})
    again = ContactBook(tmp_path)
    again.note("south", 1002.0)
    again.flush({"north", "south"})

    assert ages(tmp_path, 1003.0) == {"north": 3.0, "south": 1.0}


def test_a_revoked_site_is_no_contact(tmp_path):
    book = ContactBook(tmp_path)
    book.note("north", 1000.0)
    book.flush({"north"})
    book.flush({"south"})

    assert ages(tmp_path, 1000.0) == {}


def test_nothing_is_written_where_nothing_is_new(tmp_path):
    book = ContactBook(tmp_path)
    book.note("north", 1000.0)
    book.flush({"north"})
    before = (tmp_path / FILE).stat().st_ino
    book.flush({"north"})

    assert (tmp_path / FILE).stat().st_ino == before


def test_a_file_that_a_power_cut_left_empty_is_no_news(tmp_path):
    (tmp_path / FILE).write_bytes(b"")

    assert ages(tmp_path, 1000.0) == {}


def test_a_file_that_root_wrote_is_an_error_for_a_reader_and_replaced_by_the_server(tmp_path, monkeypatch):
    book = ContactBook(tmp_path)
    book.note("north", 1000.0)
    book.flush({"north"})
    with monkeypatch.context() as patch:
        unreadable(patch, tmp_path / FILE)
        with pytest.raises(FedradError, match=r"contacts\.json: cannot be read"):
            ages(tmp_path, 1000.0)
        again = ContactBook(tmp_path)
    again.note("south", 1002.0)
    again.flush({"north", "south"})

    assert ages(tmp_path, 1003.0) == {"south": 1.0}


def test_a_clock_that_was_set_back_makes_no_negative_age(tmp_path):
    book = ContactBook(tmp_path)
    book.note("north", 1000.0)
    book.flush({"north"})

    assert ages(tmp_path, 990.0) == {"north": 0.0}
