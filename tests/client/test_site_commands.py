"""Every verb of `fedrad-site` tells a person how to use it, and a program what came of it."""

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from fakes.terminal import Terminal

from fedrad_client.cli import app
from fedrad_client.intake.deid.rules import RULES


def verbs(command: click.Command, *names: str) -> Iterator[tuple[str, click.Command]]:
    """What can be typed: every command, and a group that does something by itself."""
    if not isinstance(command, click.Group) or (names and command.invoke_without_command):
        yield " ".join(names), command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from verbs(inner, *names, name)


VERBS = dict(verbs(typer.main.get_command(app)))


def test_all_verbs_are_looked_at() -> None:
    assert len(VERBS) >= 25
    assert {"init", "start", "doctor", "ledger", "ledger verify", "audit export", "withdraw"} <= VERBS.keys()


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_one_complete_example_and_the_exit_codes(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = " ".join(Terminal(tmp_path, capsys).do("fedrad-site", *verb.split(), "--help").out.split())

    assert shown.count(f"Example: fedrad-site {verb}") == 1
    assert "Exit codes: 0 " in shown
    assert " 2 " in shown.partition("Exit codes: ")[2].partition("Example: ")[0]


@pytest.mark.parametrize("verb", VERBS)
def test_a_program_may_read_every_answer(verb: str) -> None:
    assert "--json" in [option for parameter in VERBS[verb].params for option in parameter.opts]


def test_the_rules_of_deidentification_are_told_to_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = Terminal(tmp_path, capsys).do("fedrad-site", "deid", "--explain", "--json").out
    rules = json.loads(out)["rules"]

    assert out.count("\n") == 1
    assert [rule["keyword"] for rule in rules[2:]] == [rule.keyword for rule in RULES]
    assert all(rule["action"] and rule["kept"] for rule in rules)
