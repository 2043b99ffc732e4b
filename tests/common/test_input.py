"""What a protocol says about images: unchanged bytes for what existed before, and precise refusals for what cannot be meant."""

import json
from pathlib import Path

import pytest

from fedrad_common.errors import ConfigError
from fedrad_common.profiles import PROFILES, profile
from fedrad_common.protocol import load_protocol, parse_protocol, render_protocol, replace_settings

PROTOCOLS = Path(__file__).parents[2] / "configs" / "protocols"


def changed(**settings: object):
    return replace_settings(load_protocol(PROTOCOLS / "lgg.toml"), {f"input.{key}": value for key, value in settings.items()})


def test_a_protocol_of_before_keeps_its_bytes():
    written = json.loads(load_protocol(PROTOCOLS / "lgg.toml").canonical())

    assert set(written["input"]) == {"profile", "height", "width"}


def test_what_is_used_is_part_of_the_hash():
    hashes = {
        changed().hash,
        changed(spacing=[1.0, 1.0]).hash,
        changed(spacing=[1.0, 2.0]).hash,
        changed(profile_version=2).hash,
        changed(depth=8, spacing=[3.0, 1.0, 1.0]).hash,
    }

    assert len(hashes) == 5


def test_a_volume_survives_being_written_and_read():
    volume = changed(depth=8, spacing=[3.0, 1.0, 1.0], profile_version=2)

    assert parse_protocol(render_protocol(volume)) == volume
    assert (volume.input.depth, volume.input.spacing) == (8, (3.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"depth": 8}, "spacing is required with depth"),
        ({"depth": 8, "spacing": [1.0, 1.0]}, "2 numbers, not the 3 of a volume"),
        ({"spacing": [1.0, 1.0, 1.0]}, "3 numbers, not the 2 of an image"),
        ({"spacing": [0.0, 1.0]}, "greater than or equal to"),
        ({"depth": 0, "spacing": [1.0, 1.0, 1.0]}, "greater than or equal to"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        changed(**settings)


def test_a_profile_of_another_version_is_refused_with_what_to_do():
    assert profile("xr", PROFILES["xr"].version) is PROFILES["xr"]
    with pytest.raises(ConfigError, match="'xr' has version 2 here, not 1"):
        profile("xr", 1)
