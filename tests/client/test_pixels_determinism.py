"""The same DICOM gives the same bytes: in any order, with any processor's instructions, any number of threads."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedrad_common.profiles import PROFILES

PINNED = {
    "ct": (1, "7a39a555c4dcd15f"),
    "ct-brain": (1, "539ce662059ec479"),
    "ct-lung": (1, "ac6b4a7b88374d71"),
    "ct-soft": (1, "44dd21af5ebfac92"),
    "mg": (1, "564bbb4eb7567f45"),
    "mr": (2, "27ba26c4c9ef2f11"),
    "xr": (2, "a1b0763f4e09f765"),
}  # version, and what it makes of fakes.normalised
TESTS = Path(__file__).parents[1]
DISPATCHED = [name for name in np._core._multiarray_umath.__cpu_dispatch__ if np._core._multiarray_umath.__cpu_features__.get(name)]


def digests(seed: int, **environment: str) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "fakes.normalised", str(seed)]
    return subprocess.run(
        command, cwd=TESTS, env={**os.environ, "PYTHONHASHSEED": str(seed), **environment}, check=True, capture_output=True, text=True
    ).stdout  # fmt: skip


@pytest.fixture(scope="module")
def expected() -> str:
    return digests(0, OMP_NUM_THREADS="1")


@pytest.mark.parametrize(
    "environment",
    [
        {"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4"},
        {"NPY_DISABLE_CPU_FEATURES": " ".join(DISPATCHED)},
        {"ATEN_CPU_CAPABILITY": "default", "OPENBLAS_CORETYPE": "Prescott"},
    ],
    ids=["threads", "no vector instructions", "another processor"],
)
def test_neither_order_threads_nor_instructions_change_a_bit(expected, environment):
    assert digests(1, **environment) == expected


def test_what_these_profiles_make_is_what_they_made_at_every_site(expected):
    """Whoever changes one of these lines has changed what a model sees: raise the profile's version with it."""
    found = dict(entry.split(":") for entry in expected.split())

    assert {name: (PROFILES[name].version, digest[:16]) for name, digest in found.items()} == PINNED
