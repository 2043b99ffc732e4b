"""The stub bundle: shipped bytes, known hash, no code inside."""

import io
import zipfile

import pytest

from fedrad_common.bundle import HASH, build, stub
from fedrad_common.canonical import sha256_hex


def contents(bundle: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_shipped_bytes_have_the_hash_that_sites_and_server_know():
    assert sha256_hex(stub()) == HASH


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # Flower's use of pathspec, only while building
def test_a_bundle_built_anew_has_the_same_files_inside():
    assert contents(build()) == contents(stub())


def test_the_bundle_carries_no_code():
    assert set(contents(stub())) == {"pyproject.toml", "LICENSE", ".info/CONTENT"}
