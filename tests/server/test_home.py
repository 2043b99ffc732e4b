"""The coordinator's folder: made whole or not at all, its secrets private, its roster exact."""

from pathlib import Path

import pytest
from fakes.enrolment import Applicant

from fedrad_common.config import load_toml
from fedrad_common.errors import ConfigError, FormatError, MisuseError
from fedrad_server.authority import Institution
from fedrad_server.coordinator_toml import Settings, load_settings, render
from fedrad_server.home import Home, Member

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def test_secrets_are_for_their_owner_only(tmp_path: Path) -> None:
    Home.create(tmp_path / "home")

    for folder in (".", "keys", "superlink", "runs"):
        assert (tmp_path / "home" / folder).stat().st_mode & 0o777 == 0o700
    secret = [path for path in (tmp_path / "home").rglob("*") if path.suffix == ".key" or path.name in ("token", "secret")]
    assert len(secret) == 5
    assert {path.stat().st_mode & 0o777 for path in secret} == {0o600}


def test_without_a_host_it_is_for_this_machine_alone(tmp_path: Path) -> None:
    settings = Home.create(tmp_path / "home").settings

    assert (settings.listen, settings.hosts) == ("127.0.0.1:0", ("localhost", "127.0.0.1"))
    assert settings.seen_as(4711) == "localhost:4711"


def test_a_refused_certificate_leaves_no_home(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="--certificate"):
        Home.create(tmp_path / "home", institution=Institution(tmp_path / "no.pem", tmp_path / "no.key", None))
    assert list(tmp_path.iterdir()) == []


def test_the_roster_keeps_both_keys_of_each_site_in_the_order_of_names(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "home")
    south, north = Applicant("south").member, Applicant("north").member
    home.save_members({"south": south, "north": north})

    assert list(Home.open(home.directory).members.items()) == [("north", north), ("south", south)]
    assert home.roster == {"north": north.envelope, "south": south.envelope}


def test_a_node_key_that_leaves_the_roster_is_retired_for_good(tmp_path: Path) -> None:
    home, first, second = Home.create(tmp_path / "home"), Applicant("north").member, Applicant("north").member
    home.save_members({"north": first})
    home.save_members({"north": second})
    home.save_members({})

    assert set(home.admissions.retired) == {first.node_key.id, second.node_key.id}


def test_a_roster_of_the_release_before_is_refused_with_a_way_on(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "home")
    (home.directory / "roster.json").write_text('{"format":"fedrad-roster-1","sites":{"north":"' + "ab" * 32 + '"}}')

    with pytest.raises(FormatError, match="a release without certificates") as refused:
        _ = home.roster
    assert "admit each site again" in refused.value.hint


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"format":"fedrad-roster-3","sites":{}}', b'{"format":"fedrad-roster-2","sites":{"n":1}}']
)
def test_a_damaged_roster_lets_nobody_in(tmp_path: Path, content: bytes) -> None:
    home = Home.create(tmp_path / "home")
    (home.directory / "roster.json").write_bytes(content)

    with pytest.raises(FormatError):
        _ = home.members


def test_a_members_node_key_must_be_one(tmp_path: Path) -> None:
    member = Member(envelope="ab" * 32, node="no key", admitted="2026-02-03")

    with pytest.raises(FormatError, match="EC P-384"):
        Home.create(tmp_path / "home").save_members({"north": member})


# ── coordinator.toml ──


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(listen="0.0.0.0:9092", hosts=("fl.example.org", "192.0.2.1"), address="outside.example.org:443"),
        Settings(listen="[::]:9092", hosts=("2001:db8::1",)),
    ],
)
def test_settings_are_read_as_they_were_written(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "coordinator.toml").write_text(render(settings))

    assert load_settings(tmp_path) == settings


def test_the_example_is_what_init_writes() -> None:
    example = CONFIGS / "coordinator.toml"

    assert example.read_text() == render(Settings(listen="0.0.0.0:9092", hosts=("fl.example.org",)))
    assert load_toml(example, Settings).listen_port == 9092


def test_sites_see_the_first_host_and_the_servers_port_or_what_a_person_wrote() -> None:
    assert Settings(hosts=("2001:db8::1",)).seen_as(9092) == "[2001:db8::1]:9092"
    assert Settings(address="outside.example.org:443").seen_as(9092) == "outside.example.org:443"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('listen = "0.0.0.0"', "listen: must be HOST:PORT"),
        ('listen = "0.0.0.0:65536"', "listen: must be HOST:PORT"),
        ("hosts = []", "hosts: "),
        ('hosts = ["fl.example.org:9092"]', "hosts.0: must be a host's name or address, without a port"),
        ('hosts = ["https://fl.example.org"]', "hosts.0: must be a host's name"),
        ('address = "fl.example.org:0"', "address: must be HOST:PORT"),
        ('adress = "fl.example.org:1"', "adress: unknown key"),
    ],
)
def test_a_mistake_is_named_with_its_key(tmp_path: Path, line: str, error: str) -> None:
    (tmp_path / "coordinator.toml").write_text(f'format = "fedrad-coordinator-1"\n{line}\n')

    with pytest.raises(ConfigError) as refused:
        load_settings(tmp_path)
    assert f"coordinator.toml: {error}" in str(refused.value)
