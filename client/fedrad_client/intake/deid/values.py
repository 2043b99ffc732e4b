"""What may pass a rule: each validator makes a new value of a closed form, or none; it never hands a value through."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, TypeAlias, TypeVar

from fedrad_client.intake.deid.keys import PseudonymKeys, mac

Value = str | int | float | list[float]
FIRST_YEAR, LAST_YEAR = 1950, 2100  # of an examination
OLDEST, IMPOSSIBLE = 90, 130  # years
# Six digits are enough for any geometry, and too few for a date, a telephone number or most record numbers.
DIGITS = 6
_DATE = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})|([0-9]{4})\.([0-9]{2})\.([0-9]{2})")  # ACR-NEMA wrote 1993.08.22
_AGE = re.compile(r"([0-9]{1,4})([DWMY])")
_PER_YEAR = {"D": 365.25, "W": 365.25 / 7, "M": 12, "Y": 1}


@dataclass(frozen=True)
class Cloak:
    """What the rules need to know of the patient in hand."""

    keys: PseudonymKeys
    shift: timedelta


T = TypeVar("T")
Make: TypeAlias = Callable[[Any, Cloak], T | None]  # a value of the file to a new one, or to none; may raise, which is none, too
Apply: TypeAlias = Make[Value]


def text(value: Any) -> str:
    """One string, blanks around it gone; several values, and whatever is no text, are the empty string."""
    return value.strip(" \0") if isinstance(value, str) else ""


def one_of(terms: frozenset[str]) -> Apply:
    def apply(value: Any, _: Cloak) -> Value | None:
        term = text(value).upper()
        return term if term in terms else None

    return apply


def known(names: dict[str, str]) -> Apply:
    """The name that a longer text begins with: `SIEMENS Healthineers` is SIEMENS."""

    starts = re.compile(rf"({'|'.join(sorted(map(re.escape, names), key=len, reverse=True))})\b")

    def apply(value: Any, _: Cloak) -> Value | None:
        found = starts.match(text(value).upper())
        return names[found[1]] if found else None

    return apply


def terms_of(*places: frozenset[str]) -> Apply:
    """A text of several values, each from the closed list of its place; cut before the first that is in none.

    The first place must be there. Joined by a backslash, as DICOM writes it.
    """

    def apply(value: Any, _: Cloak) -> Value | None:
        said = [text(item).upper() for item in ([value] if isinstance(value, str) else value)]
        kept: list[str] = []
        for term, terms in zip(said, places, strict=False):
            if term not in terms:
                break
            kept.append(term)
        return "\\".join(kept) or None

    return apply


def _number(value: Any) -> float:
    """Raises TypeError: a text, also one of digits, a truth value, or several values. It may have stood in a wrong element."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise TypeError
    return float(f"{float(value):.{DIGITS}g}")


def number(low: float, high: float) -> Apply:
    def apply(value: Any, _: Cloak) -> Value | None:
        found = _number(value)
        return found if low <= found <= high else None

    return apply


def whole(low: int, high: int) -> Apply:
    def apply(value: Any, _: Cloak) -> Value | None:
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
            return None
        found = int(value)
        return found if low <= found <= high and found == value else None

    return apply


def numbers(least: int, most: int, low: float, high: float) -> Apply:
    """`least` to `most` numbers, each between `low` and `high`; one alone where `least` is 1."""

    def apply(value: Any, _: Cloak) -> Value | None:
        if isinstance(value, str | bytes):  # whose letters and bytes could be taken for numbers
            return None
        found = [_number(item) for item in ([value] if isinstance(value, int | float | Decimal) else value)]
        return found if least <= len(found) <= most and all(low <= item <= high for item in found) else None

    return apply


def new_uid(value: Any, cloak: Cloak) -> Value | None:
    """`2.25.` and a 128-bit integer (PS3.5 B.2), from a keyed hash: the same UID stays the same, nobody else can make it."""
    uid = text(value)
    return f"2.25.{int.from_bytes(mac(cloak.keys.uid, uid.encode())[:16], 'big')}" if uid else None


def shifted(value: Any, cloak: Cloak) -> Value | None:
    """A day of an examination, moved back by the patient's shift; anything that is no such day does not exist."""
    found = _DATE.fullmatch(text(value) if isinstance(value, str) else value.strftime("%Y%m%d") if type(value) is date else "")
    if not found:
        return None
    day = date(*map(int, (part for part in found.groups() if part)))
    return (day - cloak.shift).strftime("%Y%m%d") if FIRST_YEAR <= day.year <= LAST_YEAR else None


def age(value: Any, _: Cloak) -> Value | None:
    """Ages from 90 years on become 90, in whatever unit they are written: the oldest are few enough to be known. `45Y` becomes `045Y`."""
    found = _AGE.fullmatch(text(value).upper())
    if not found:
        return None
    count, unit = int(found[1]), found[2]
    years = count / _PER_YEAR[unit]
    if years > IMPOSSIBLE:
        return None
    if years >= OLDEST:
        return f"{OLDEST:03d}Y"
    return f"{count:03d}{unit}" if count <= 999 else f"{int(years):03d}Y"
