"""What a row was made by and from: hashes of the code under audit and of the data, so that no result outlives either."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedrad_common.files import sha256_file

PACKAGES = ("fedrad_client", "fedrad_common", "fedrad_server", "fedrad_sim")  # whole: a list of what is used would miss something
_LIBRARIES = ("numpy", "torch")


@functools.cache
def code() -> str:
    """SHA-256 over fedrad's packages and the versions of the libraries that compute."""
    folders = {package: Path(str(files(package))) for package in PACKAGES}
    lines = [f"{package} {digest_of_files(folder)}" for package, folder in folders.items()]
    lines += [f"{library} {version(library)}" for library in _LIBRARIES]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def digest_of_files(folder: Path) -> str:
    """SHA-256 over every file's name and content; what Python compiled is left out."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        found.update(f"{path.relative_to(folder).as_posix()} {sha256_file(path)}\n".encode())
    return found.hexdigest()


def digest_of_arrays(arrays: Iterable[npt.NDArray[Any]]) -> str:
    """SHA-256 over types, shapes and values, in order."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
