"""Who is admitted: the roster as it is at this request."""

import pytest
from fakes.superlink import Site, admit

from fedrad_server.home import Home
from fedrad_server.superlink.roster import NodeKeys


@pytest.fixture
def made(tmp_path):
    return Home.create(tmp_path / "home")


def test_an_admission_and_a_revocation_count_at_the_next_look(made):
    north, south, keys = Site("north"), Site("south"), NodeKeys(made)
    admit(made)
    seen = [sorted(keys.current())]
    for sites in ((north,), (north, south), (south,)):
        admit(made, *sites)
        seen.append(sorted(keys.current()))

    assert seen == [[], ["north"], ["north", "south"], ["south"]]
    assert keys.current()["south"] == south.public


def test_an_unchanged_roster_is_not_read_again(made):
    admit(made, Site("north"))
    keys = NodeKeys(made)

    assert keys.current() is keys.current()


@pytest.mark.parametrize("content", [b"", b"{", b'{"format":"fedrad-roster-1","sites":{}}', b"[]"])
def test_a_damaged_roster_admits_nobody(made, content, capsys):
    keys = NodeKeys(made)
    admit(made, Site("north"))
    assert keys.current()
    made.roster_file.write_bytes(content)

    assert keys.current() == {}
    assert "no site is admitted" in capsys.readouterr().err


def test_a_missing_roster_admits_nobody(made):
    keys = NodeKeys(made)
    admit(made, Site("north"))
    assert keys.current()
    made.roster_file.unlink()

    assert keys.current() == {}
    other = Home.create(made.directory.parent / "other")
    admit(other, Site("north"))
    other.roster_file.replace(made.roster_file)
    assert keys.current()


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"{")], ids=["missing", "damaged"])
def test_strangers_do_not_fill_the_log_meanwhile(made, damage, capsys):
    keys = NodeKeys(made)
    damage(made.roster_file)
    for _ in range(5):
        keys.current()

    assert capsys.readouterr().err.count("no site is admitted") == 1
