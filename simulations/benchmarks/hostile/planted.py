"""Canaries: what no failure may let out, in the exceptions and files that would carry it, and the search that finds it again."""

import base64
import errno
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import ValidationError

from fedrad_common.config import Section
from fedrad_common.errors import DiskError, FedradError, FormatError

KINDS = ("value", "name", "path", "uid")  # a header's value, a patient's name, a path below the images' root, a UID
_SHAPE = re.compile(rb"ZQ[A-Z0-9]{14}")


def canaries(number: int) -> dict[str, str]:
    """Those of one failure, by kind: none is part of another, and each is known by its shape."""
    return {kind: "ZQ" + _token(f"{kind}-{number}") for kind in KINDS}


def all_canaries(failures: int) -> set[str]:
    return {canary for number in range(failures) for canary in canaries(number).values()}


def _token(seed: str) -> str:
    digits = hashlib.sha256(seed.encode()).digest()
    return "".join("0123456789ABCDEFGHJKLMNPQRSTVWXYZ"[byte % 33] for byte in digits[:14])


def text(number: int) -> str:
    """What a library would say of a patient."""
    found = canaries(number)
    return f"cannot use {found['value']} of {found['name']} in /images/{found['path']}/1.dcm ({found['uid']})"


class _Section(Section):
    age: int


def _validation(words: str) -> Exception:
    try:
        _Section.model_validate({"age": words, words: 1})
    except ValidationError as error:
        return error
    raise AssertionError


def _chained(words: str) -> Exception:
    error = RuntimeError(words)
    error.__cause__ = KeyError(words)
    error.add_note(words)
    return error


ERRORS: dict[str, Callable[[str], Exception]] = {
    "ValueError": ValueError,
    "KeyError": KeyError,
    "OSError": lambda words: OSError(errno.EIO, words, f"/images/{words}"),
    "FileNotFoundError": lambda words: FileNotFoundError(errno.ENOENT, words, f"/images/{words}"),
    "UnicodeDecodeError": lambda words: UnicodeDecodeError("utf-8", words.encode(), 0, 1, words),
    "JSONDecodeError": lambda words: json.JSONDecodeError(words, json.dumps({words: words}), 1),
    "FormatError": lambda words: FormatError(words, hint=words),
    "FedradError": lambda words: FedradError(words, hint=words),
    "DiskError": lambda words: DiskError(words, hint=words),
    "ValidationError": _validation,
    "chained": _chained,
    "MemoryError": MemoryError,
}


def found(content: bytes, wanted: set[str]) -> set[str]:
    """Those of `wanted` that stand in `content`: as they are, in another case, in UTF-16, in hexadecimal, in base64."""
    seen = set()
    for view in _views(content):
        seen |= {match.decode() for match in _SHAPE.findall(view)} & wanted
    return seen


def _views(content: bytes) -> Iterable[bytes]:
    yield content
    yield content.upper()
    yield content.replace(b"\0", b"")
    for match in re.findall(rb"(?:[0-9a-fA-F]{2}){16,}", content):
        yield bytes.fromhex(match.decode())
        yield bytes.fromhex("0" + match[:-1].decode()) if len(match) % 2 == 0 else b""
    for match in re.findall(rb"[A-Za-z0-9+/_-]{22,}", content):
        plain = match.replace(b"-", b"+").replace(b"_", b"/")
        for skipped in range(4):
            part = plain[skipped:]
            part = part[:-1] if len(part) % 4 == 1 else part  # no base64 is so long
            yield base64.b64decode(part + b"=" * (-len(part) % 4))


def below(*folders: Path, without: Iterable[Path] = ()) -> dict[str, bytes]:
    """Every file's bytes with its path, by path."""
    skipped = tuple(without)
    paths = [path for folder in folders for path in sorted(folder.rglob("*")) if not any(map(path.is_relative_to, skipped))]
    return {str(path): str(path).encode() + b"\n" + (path.read_bytes() if path.is_file() else b"") for path in paths}
