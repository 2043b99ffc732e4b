"""TOML to frozen sections, or one precise refusal: file, key, what is wrong, and a hint."""

import difflib
import json
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fedrad_common.errors import ConfigError, FormatError


class Section(BaseModel):
    """A frozen value that forbids unknown keys and never coerces types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


S = TypeVar("S", bound=Section)


def load_toml(path: Path, model: type[S]) -> S:
    """Read and validate one TOML file.

    Raises:
        ConfigError: the file is missing, is no TOML, or one key is unknown, missing or ill-typed.
    """
    return parse_toml(read_toml(path), model, name=path.name)


def read_toml(path: Path) -> bytes:
    """The bytes of a TOML file that a person named. Raises ConfigError when there are none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path.name}: no such file", hint=f"looked in {path.parent}") from None
    except OSError as error:
        raise ConfigError(f"{path.name}: cannot be read ({type(error).__name__})", hint="name a TOML file that you may read") from None


def parse_toml(content: bytes, model: type[S], *, name: str) -> S:
    try:
        value = tomllib.loads(content.decode())
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: is not UTF-8 text", hint="a TOML file is text: name another, or save it as UTF-8") from None
    except RecursionError:
        raise ConfigError(f"{name}: is nested too deeply", hint="TOML wants KEY = VALUE lines under [section] headings") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: {_lower_first(str(error))}", hint="TOML wants KEY = VALUE lines under [section] headings") from None
    return validate(value, model, name=name)


def validate(value: Any, model: type[S], *, name: str) -> S:
    try:
        # Through JSON: there, strict mode still turns arrays into tuples and whole numbers into floats.
        return model.model_validate_json(json.dumps(value, default=str))
    except ValidationError as error:
        raise _precise(error, model, name) from None


def _precise(error: ValidationError, model: type[Section], name: str) -> ConfigError:
    first, *more = error.errors(include_url=False)
    where = ".".join(str(part) for part in first["loc"])
    hint = ""
    if first["type"] == "extra_forbidden":
        what = "unknown key"
        hint = _did_you_mean(str(first["loc"][-1]), _known_keys(model, first["loc"][:-1]))
    elif first["type"] == "missing":
        what, hint = "missing key", "add it; the example under configs/ shows each key"
    else:
        what = _lower_first(first["msg"].removeprefix("Value error, "))
        if not isinstance(first["input"], dict | list):
            what += f", not {first['input']!r}"
    if more:
        hint = f"{hint}; {len(more)} more of this kind" if hint else f"{len(more)} more of this kind"
    return ConfigError(f"{name}: {where}: {what}" if where else f"{name}: {what}", hint=hint)


def _known_keys(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    for part in location:
        field = model.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)


def _did_you_mean(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean '{close[0]}'?" if close else (f"known keys: {', '.join(known)}" if known else "")


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(".")


def parse_json(content: bytes, model: type[S], *, name: str) -> S:
    """Validate one JSON document that a peer sent or a file holds.

    Raises:
        FormatError: it is not the record that it should be.
    """
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FormatError(
            f"{name}: {where or 'document'}: {_lower_first(first['msg'])}", hint="it is damaged or of another version"
        ) from None
