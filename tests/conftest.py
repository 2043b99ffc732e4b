"""What all tests share: where the real data lies, and that nothing of a run reaches the user's home."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data (`$FEDRAD_SHARED_DATA` or ../shared/data). Where CI has it, its absence is a failure."""
    path = Path(os.environ.get("FEDRAD_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not (path / "README.md").exists():
        if os.environ.get("FEDRAD_NEEDS_DATA"):
            pytest.fail("FEDRAD_NEEDS_DATA is set and the real data is not there")
        pytest.skip("the real data is not here: set FEDRAD_SHARED_DATA")
    return path


@pytest.fixture(autouse=True)
def _no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """No part may phone home, in any test."""
    for name, value in (("FLWR_TELEMETRY_ENABLED", "0"), ("FLWR_DISABLE_UPDATE_CHECK", "1"), ("RAY_USAGE_STATS_ENABLED", "0")):
        monkeypatch.setenv(name, value)


PROTOCOL = """
format = "fedrad-protocol-1"
name = "tiny"
[task]
kind = "{task}"
labels = ["lesion"]
[input]
profile = "xr"
height = 8
width = 8
[model]
name = "{model}"
[model.options]
length = 16
[privacy]
unit = "patient"
epsilon = {epsilon}
expected_batch = 5.0
steps_per_round = 2
rounds = 3
[training]
learning_rate = 0.1
[rounds]
quorum = 1
deadline_seconds = 5.0
[evaluation]
rounds = [1, 3]
epsilon = 2.0
"""


def protocol_text(*, epsilon: float = 2.0, task: str = "echo", model: str = "echo") -> bytes:
    return PROTOCOL.format(epsilon=epsilon, task=task, model=model).encode()


def write_cohort(directory: Path, *, n_patients: int = 60, labels: tuple[str, ...] = ("lesion",), key: str = "k") -> None:
    """A cohort of random 8 × 8 images, one or two a patient, without any DICOM."""
    import numpy as np

    from fedrad_client.cohort.draft import new_generation, next_generation, publish
    from fedrad_client.cohort.store import Manifest, Record
    from fedrad_common.profiles import profile

    rng = np.random.default_rng(n_patients)
    with new_generation(directory, height=8, width=8) as draft:
        entry = 0
        for patient in range(n_patients):
            part = "validation" if patient % 5 == 0 else "training"
            for image in range(1 + patient % 2):
                pixels = rng.integers(0, 65536, (8, 8)).astype(np.uint16)
                record = Record(f"{patient:032x}", f"2.25.{entry + 1}", part, {})
                draft.add(record, pixels, tuple(patient % 2 for _ in labels), entry=entry, series=image)
                entry += 1
        kept = draft.settle()
        manifest = Manifest(
            generation=next_generation(directory),
            profile="xr",
            profile_hash=profile("xr").hash,
            height=8,
            width=8,
            key=key,
            validation_fraction=0.2,
            labels=labels,
            n_files=entry,
            n_images=len(kept),
            n_patients=n_patients,
            files=draft.write_files(labels),
        )
        publish(draft, directory, manifest)


@pytest.fixture
def protocol_bytes() -> bytes:
    return protocol_text()


@pytest.fixture(name="write_cohort", scope="session")
def _write_cohort():
    return write_cohort


@pytest.fixture
def coordinator():
    from fedrad_common.identity import SigningKey

    return SigningKey.generate()


@pytest.fixture
def make_site(tmp_path: Path, coordinator):
    """Make a site's home with a small cohort; keyword arguments go to the site.toml template."""
    from fedrad_client.config import SiteConfig
    from fedrad_client.site import Home, create_site
    from fedrad_client.site_toml import render
    from fedrad_common.config import parse_toml

    def make(name: str = "north", **settings: object) -> Home:
        values = {"epsilon": 8.0, "delta": 1e-3, "validation_fraction": 0.2, **settings}
        text = render(name=name, **values).replace('tasks = ["classification"]', 'tasks = ["classification", "echo"]')
        config = parse_toml(text.encode(), SiteConfig, name="site.toml")
        home = create_site(tmp_path / name, config, toml=text, coordinator=coordinator.public)
        write_cohort(home.cohort)
        return home

    return make


@pytest.fixture
def site_home(make_site) -> Path:
    return make_site().path
