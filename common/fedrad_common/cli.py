"""One way for all three programs to end: results on stdout, one error and one hint on stderr, and an exit code that means something.

Exit codes: 0 done · 1 failed · 2 misused · 130 interrupted. An exception that is no FedradError is a bug and shows its traceback.
"""

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import click
import typer

from fedrad_common.canonical import canonical_json
from fedrad_common.errors import FedradError
from fedrad_common.files import disk_error

INTERRUPTED = 130  # 128 + SIGINT, as shells count


def run_cli(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command line and leave the process with its exit code; `arguments` default to the process's own.

    A `main()` is this one call. Make the app with `add_completion=False, pretty_exceptions_enable=False`.
    """
    code = _run(app, name, arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = code or 1
        _discard_stdout()
    sys.exit(code)


def fail(name: str, message: str, hint: str = "") -> None:
    """Say on stderr what went wrong and what to do, in the two lines that every program of fedrad uses."""
    typer.echo(f"{name}: error: {message}", err=True)
    if hint:
        typer.echo(f"{name}: hint: {hint}", err=True)


def emit(value: Mapping[str, Any] | Sequence[Any], *, as_json: bool, lines: Sequence[str] = ()) -> None:
    """Print a command's result: one line of canonical JSON for a program, or `lines` for a person."""
    if as_json:
        typer.echo(canonical_json(value).decode())
        return
    for line in lines:
        typer.echo(line)


def _run(app: typer.Typer, name: str, arguments: Sequence[str] | None) -> int:
    try:
        # Outside click's standalone mode, so that its errors are worded like ours.
        result = app(args=arguments, prog_name=name, standalone_mode=False)
    except FedradError as error:
        fail(name, str(error), error.hint)
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        if text := error.format_message().strip():  # empty where Rich has printed the help already
            typer.echo(text, err=True)
        return error.exit_code
    except click.ClickException as error:
        fail(name, _sentence(error.format_message()), f"see '{_command(error, name)} --help'")
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        result = INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        return 1
    except OSError as error:
        if (trouble := disk_error("a file", error)) is None:
            raise
        fail(name, str(trouble), trouble.hint)
        return 1
    except SystemExit as end:  # click's own answer to a closed pipe
        return end.code if isinstance(end.code, int) else 1
    if result == INTERRUPTED:
        typer.echo(f"{name}: interrupted", err=True)
    # A command's own value is not an exit code: only `typer.Exit` gives an int here.
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def _sentence(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(".")


def _command(error: click.ClickException, name: str) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if isinstance(context, click.Context) else name


def _discard_stdout() -> None:
    """The reader has gone (`| head`): let the interpreter's last flush go nowhere instead of failing."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
