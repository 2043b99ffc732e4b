"""What root left behind where the coordinator lives: files and folders that its account may not read. Tests may be root themselves."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def unreadable(patch: pytest.MonkeyPatch, place: Path) -> None:
    """From now on `place` may not be opened, nor anything below it; a folder not be looked into either."""

    def guard(real: Callable[..., object], *, inside: bool) -> Callable[..., object]:
        def call(path: object, *arguments: object, **options: object) -> object:
            if isinstance(path, (str, Path)) and (place in Path(path).parents or (not inside and Path(path) == place)):
                raise PermissionError(13, "Permission denied")
            return real(path, *arguments, **options)

        return call

    for module, name, inside in ((os, "stat", True), (os, "open", False), (io, "open", False), (os, "scandir", False)):
        patch.setattr(module, name, guard(getattr(module, name), inside=inside))
