"""What training measures of patients is made unmistakable, then looked for in all that a whole run leaves behind (privacy.md, rule 15)."""

import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes.patients import Asking, network_protocol, patients, write_patients
from torch import Tensor

from fedrad_client.app import handle
from fedrad_client.privacy.gradients.parts import Parts
from fedrad_client.privacy.optimizer import PatientOptimizer
from fedrad_client.site import open_site
from fedrad_client.work import run_inline
from fedrad_common.protocol import render_protocol
from fedrad_common.tasks import classification
from fedrad_server.app import play_on
from fedrad_server.report import write_report
from fedrad_server.rounds import Outcome
from fedrad_server.runs import Run
from fedrad_sim.localgrid import LocalGrid, SimulatedClock

# isort: split
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

LOSS = 31_415_926.0  # instead of each image's loss, with its gradient; it shows in a mean, too, rounded or not
LOSS_SEEN = re.compile(rb"3141592[4-8]")
STEEP = 1e6  # times each gradient, which is clipped anyway: norms of six digits and more before the point
Tell = Callable[[Tensor], object]


class Measured:
    """What a tracker would like to know of each step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.norms: list[float] = []
        self.tell: Tell = lambda losses: None
        real_loss, real_accumulate = classification.loss, PatientOptimizer.accumulate

        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            steep = STEEP * real_loss(outputs, targets)
            losses = LOSS + (steep - steep.detach())
            self.tell(losses.detach())
            return losses

        def accumulate(optimizer: PatientOptimizer, parts: Parts) -> None:
            self.norms += [norm for norm in parts.squares().sqrt().tolist() if norm > 0]  # without the blank images'
            real_accumulate(optimizer, parts)

        monkeypatch.setattr(classification, "loss", loss)
        monkeypatch.setattr(PatientOptimizer, "accumulate", accumulate)

    def found_in(self, content: bytes) -> bool:
        norms = {str(int(norm)).encode() for norm in self.norms if norm >= 1e5}
        return bool(LOSS_SEEN.search(content)) or any(norm in norms for norm in re.findall(rb"(?<![0-9a-f])[0-9]{6,}", content))


@pytest.fixture
def ask(make_site, coordinator, protocol_bytes: bytes) -> Asking:
    home = make_site()
    write_patients(home.cohort, patients(60))
    setup = network_protocol(protocol_bytes, privacy__rounds=1, privacy__steps_per_round=8, evaluation__rounds=(1,))
    return Asking.approved(home, coordinator, setup)


@pytest.fixture
def measured(ask: Asking, monkeypatch: pytest.MonkeyPatch) -> Measured:
    """After the approval, which would not accept such a loss."""
    return Measured(monkeypatch)


@pytest.fixture
def play(ask: Asking, tmp_path: Path, caplog, capfd) -> Callable[[], Iterator[tuple[str, bytes]]]:
    """A whole run of one hospital, to the report; then everything that is left of it, by name."""

    def play() -> Iterator[tuple[str, bytes]]:
        clock, sent = SimulatedClock(), []
        roster = {"north": ask.home.envelope_key.public.hex}
        with (
            caplog.at_level(logging.DEBUG),
            open_site(ask.home.path) as site,
            Run.create(tmp_path / "run", render_protocol(ask.protocol), roster=roster, key=ask.key, initial=ask.model) as run,
        ):

            def answer(name, message):
                sent.append(handle(message, site=site, work=run_inline))
                return sent[-1]

            outcome = play_on(LocalGrid(roster, answer), run, clock=clock, sleep=clock.sleep)
        write_report(tmp_path / "run", tmp_path / "report.html")

        assert outcome is Outcome.FINISHED
        assert len(sent) == 2
        for message in sent:
            yield from (("message", part.deflate()) for part in get_all_nested_objects(message).values())
        for path in tmp_path.rglob("*"):
            if path.is_file() and not path.is_relative_to(ask.home.cohort):
                yield path.name, path.read_bytes()
        for record in caplog.records:
            yield "log", f"{record.getMessage()} {record.args} {record.exc_text}".encode()
        yield from (("terminal", text.encode()) for text in capfd.readouterr())

    return play


def test_no_loss_and_no_norm_is_in_anything_that_a_run_leaves_behind(measured: Measured, play) -> None:
    left = list(play())

    assert len(measured.norms) > 5
    assert min(sorted(measured.norms)[-3:]) > 1e5
    assert [name for name, content in left if measured.found_in(content)] == []
    assert {"report.html", "ledger.chain", "audit.chain", "events.chain", "message", "terminal"} <= {name for name, _ in left}


@pytest.mark.parametrize("way", ["log", "terminal", "loss.csv", "a norm"])
def test_what_is_told_in_any_way_is_found(measured: Measured, play, tmp_path: Path, way: str) -> None:
    ways: dict[str, Tell] = {
        "log": lambda losses: logging.getLogger("fedrad_client.privacy.training").info("loss %.4f", losses.mean()),
        "terminal": lambda losses: sys.stdout.write(f"{losses.mean()}\n"),
        "loss.csv": lambda losses: (tmp_path / "loss.csv").write_text(f"1,{losses[0]:.1f}\n"),
        "a norm": lambda losses: logging.getLogger("x").warning("norm %.3f", measured.norms[-1]) if measured.norms else None,
    }
    measured.tell = ways[way]

    assert ("log" if way == "a norm" else way) in {name for name, content in play() if measured.found_in(content)}
