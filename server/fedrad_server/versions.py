"""With which versions of what a run was launched and played: for whoever reads its records years later."""

import functools
import platform
from importlib.metadata import PackageNotFoundError, version

_NAMED = ("fedrad", "flwr", "torch", "opacus", "numpy", "pydicom")  # distributions


@functools.cache  # reading distributions' metadata costs more than a round of a small model
def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _NAMED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
