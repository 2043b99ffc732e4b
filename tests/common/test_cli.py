"""How every program of fedrad ends."""

import os
import subprocess
import sys

import pytest
import typer

from fedrad_common.cli import emit, run_cli
from fedrad_common.errors import ConfigError, FedradError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.command()
def broken() -> None:
    raise FedradError("events.chain: was changed", hint="compare with a witness")


@app.command()
def misused() -> None:
    raise ConfigError("site.toml: privacy.epsilom: unknown key")


@app.command()
def stopped() -> None:
    raise KeyboardInterrupt


@app.command()
def bug() -> None:
    raise ZeroDivisionError("a bug")


@app.command()
def left(code: int) -> None:
    raise typer.Exit(code)


@app.command()
def shown(as_json: bool = False) -> int:
    emit({"n": 3}, as_json=as_json, lines=["three", "lines"])
    return 7


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        run_cli(app, "fedrad-site", arguments)
    assert isinstance(end.value.code, int)
    return end.value.code


def test_an_error_is_one_line_and_a_hint_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    code = run("broken")

    shown = capsys.readouterr()
    assert (code, shown.out) == (1, "")
    assert shown.err == "fedrad-site: error: events.chain: was changed\nfedrad-site: hint: compare with a witness\n"


def test_the_users_own_mistake_exits_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("misused") == 2
    assert "hint" not in capsys.readouterr().err


def test_an_unknown_option_is_worded_like_our_own_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("shown", "--jsonn") == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("fedrad-site: error: no such option")
    assert "--jsonn" in first
    assert second == "fedrad-site: hint: see 'fedrad-site shown --help'"


def test_no_command_shows_the_help_and_counts_as_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    shown = capsys.readouterr()
    assert "Usage: fedrad-site" in shown.out + shown.err
    assert "error" not in shown.err


def test_ctrl_c_exits_with_130_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("stopped") == 130
    assert capsys.readouterr().err == "fedrad-site: interrupted\n"


def test_a_bug_is_not_dressed_up() -> None:
    with pytest.raises(ZeroDivisionError):
        run_cli(app, "fedrad-site", ["bug"])


def test_an_exit_code_asked_for_is_kept() -> None:
    assert run("left", "1") == 1


def test_results_go_to_stdout_as_text_or_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    run("shown")
    run("shown", "--as-json")
    assert capsys.readouterr().out == 'three\nlines\n{"n":3}\n'


@pytest.mark.parametrize("source", ["typer.echo('line\\n' * 100_000)", "print('line')"])
def test_a_reader_that_left_causes_no_traceback(source: str) -> None:
    program = (
        "import typer\nfrom fedrad_common.cli import run_cli\n"
        "app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)\n"
        f"@app.command()\ndef show() -> None:\n    {source}\n"
        "run_cli(app, 'fedrad-site', [])\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=30)
    os.close(writer)

    assert (ended.returncode, ended.stderr) == (1, "")
