"""docs/pixels.md says of every profile what its data says."""

from pathlib import Path

from fedrad_client.intake.codes import CODES
from fedrad_common.profiles import PROFILES, PixelProfile

PAGE = (Path(__file__).parents[2] / "docs" / "pixels.md").read_text()
UNIT = {"fixed": "HU", "percentiles": "%", "z-score": "SD"}
OF = {"fixed": "fixed", "percentiles": "percentiles of the {region}", "z-score": "z-score of the series' {region}"}


def row(one: PixelProfile) -> str:
    besides = {
        "VOI table": one.apply_voi_table, "chest wall left": one.chest_wall_left, "upright": one.upright, "HU only": one.hounsfield,
        "no localizers": not one.localizers,
    }  # fmt: skip
    ends = (f"{end:g} {UNIT[one.window]}" for end in (one.lower, one.upper))
    cells = one.name, str(one.version), " ".join(one.modalities), OF[one.window].format(region=one.region), *ends
    return "| " + " | ".join((*cells, ", ".join(name for name, does in besides.items() if does))) + " |"


def test_the_table_of_profiles_is_theirs():
    assert [line for line in PAGE.splitlines() if line.startswith(tuple(f"| {name} |" for name in PROFILES))] == [
        row(PROFILES[name]) for name in sorted(PROFILES)
    ]


def test_every_code_on_the_page_exists():
    listed = PAGE.split("## What is set aside")[1]
    named = {
        code
        for line in listed.splitlines()
        if line.startswith("| ") and "code" not in line
        for code in line.split(" | ")[0][2:].split(", ")
    }

    assert named <= set(CODES)
