"""Which files of a folder are looked at, in an order that no file system decides."""

import os
from pathlib import Path


def find_files(source: Path) -> list[Path]:
    """Everything below `source` that is not hidden and not a folder, in an order that does not depend on the file system.

    A file's quarantine entry number is its place in this list, counted from 1. Links are listed, never followed.
    """
    closed: list[OSError] = []
    found: list[Path] = []
    for folder, folders, files in os.walk(source, onerror=closed.append):
        linked = [name for name in folders if (Path(folder) / name).is_symlink()]
        folders[:] = [name for name in folders if name not in linked and not name.startswith(".")]
        found += [Path(folder) / name for name in (*files, *linked) if not name.startswith(".")]
    # A folder that may not be opened is listed too: nothing is left out in silence.
    found += [Path(error.filename) for error in closed]
    return sorted(found, key=lambda path: os.fsencode(path.relative_to(source)))
