"""What a newcomer reads while a simulation plays: commands that could be typed again, numbers that fit."""

from types import SimpleNamespace
from typing import Any

import pytest

from fedrad_common import progress
from fedrad_sim.hospitals import _short, declared_size, delta_for
from fedrad_sim.tables import _epsilons


@pytest.mark.parametrize("n_patients", [70, 100, 110, 140, 2000])
def test_a_shown_delta_is_short_and_would_still_be_accepted(n_patients: int) -> None:
    delta = delta_for(declared_size(n_patients, 0.2))
    shown = _short(f"{delta}")

    assert len(shown) <= 9
    assert 0.9 * delta < float(shown) <= delta


@pytest.mark.parametrize("argument", ["0.2", "10.0", "north", "--delta"])
def test_short_arguments_are_shown_as_they_are(argument: str) -> None:
    assert _short(argument) == argument


@pytest.mark.parametrize(
    ("each", "shown"),
    [([8.0, 7.999], "8.00"), ([8.0, 7.5, 6.0], "6.00 … 8.00"), ([None, None], "no bound"), ([3.0, None], "3.00 … no bound")],
)
def test_epsilons_of_many_hospitals_fit_in_one_cell(each: list[float | None], shown: str) -> None:
    result: Any = SimpleNamespace(epsilon=dict(enumerate(each)))

    assert _epsilons(result) == shown


def test_a_plain_line_is_not_said_again_while_nothing_has_changed(capsys, monkeypatch) -> None:
    clock = iter(range(0, 1000, 60))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))

    with progress.progress_bar("runs") as advance:
        for done in (1, 1, 2):
            advance(done, 3)

    assert capsys.readouterr().err == "runs: 1 of 3\nruns: 2 of 3\n"
