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
