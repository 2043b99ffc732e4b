"""Where a part of a network learns, a patient still adds one clipped vector of that part; what stays is the site's own, checked file."""

import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.jobs import job_on
from fakes.patients import Asking, network_protocol
from fakes.steps import SIDE, dataset, difference, one_thread, patients_of, plan, protocol  # noqa: F401 - a fixture
from torch import nn
from typer.testing import CliRunner

from fedrad_client import approval
from fedrad_client.answer import answer
from fedrad_client.approval import approve
from fedrad_client.approval import preview as look
from fedrad_client.cli import app
from fedrad_client.config import Resources
from fedrad_client.policy import REASONS
from fedrad_client.preview import facts, lines
from fedrad_client.privacy.noise import AesNoise
from fedrad_client.privacy.optimizer import GRID, PatientOptimizer
from fedrad_client.privacy.trainable import check_network, check_places
from fedrad_client.privacy.training import train
from fedrad_client.site import Home, open_site
from fedrad_client.work import Worker, compute, run_child, run_inline
from fedrad_client.work.scoring import features_of, fixed_front
from fedrad_common import weights
from fedrad_common.errors import MisuseError
from fedrad_common.files import sha256_file
from fedrad_common.models import build, outline, whole_of, whole_size
from fedrad_common.models.partial import Fixed
from fedrad_common.packing import pack, vector_hash
from fedrad_common.protocol import TrainingProtocol, render_protocol, replace_settings
from fedrad_common.records import Answer
from fedrad_common.weights import check_public, file_hash, first_vector, keep_file, keeps, kept_file, public_vector, write_weights
from fedrad_sim.one_site import asked

PARTS = {"head": {"model.trains": "head"}} | {kind: {"model.trains": kind, "model.rank": 2} for kind in ("lora", "lora-up")}
SMALL = {"channels": 8, "stages": 2, "weight_standardization": True}


def part_of(kind: str) -> TrainingProtocol:
    return replace_settings(protocol(), {"model.options": SMALL, **PARTS[kind]})


def network_of(chosen: TrainingProtocol, *, hostile: bool = False) -> nn.Module:
    made = outline(chosen.model, n_outputs=len(chosen.task.labels), height=chosen.input.height, width=chosen.input.width)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=1e4 if hostile else 0.1)
    return made


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("name", ["resnet", "resnet18", "densenet121"])
def test_a_patients_gradient_of_a_part_can_be_told_from_the_others(name: str, kind: str) -> None:
    options = SMALL if name == "resnet" else {}
    chosen = replace_settings(
        protocol(), {"model.name": name, "model.options": options, "input.height": 32, "input.width": 32, **PARTS[kind]}
    )
    assert check_network(chosen) == ()
    if name == "resnet":
        check_places(chosen, images=16, views=1, device="cpu")


Sums = Callable[[TrainingProtocol, Callable[[], nn.Module]], list[np.ndarray]]


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> Sums:
    """What a step adds up before the noise: of all patients, of all but one, and of that one alone."""
    caught: list[np.ndarray] = []
    noised = PatientOptimizer.add_noise

    def look(optimizer: PatientOptimizer) -> None:
        caught.append(torch.cat([parameter.summed_grad.flatten() for parameter in optimizer.params]).numpy().copy() * GRID)
        noised(optimizer)

    def added(chosen: TrainingProtocol, make: Callable[[], nn.Module]) -> list[np.ndarray]:
        caught.clear()
        data = dataset()
        for each in (data, patients_of(data, [0, 1, 2, 3]), patients_of(data, [4])):
            difference(each, make(), setup=chosen)
        return caught

    monkeypatch.setattr(PatientOptimizer, "add_noise", look)
    return added


@pytest.mark.parametrize("clipping", ["flat", "normalised"])
@pytest.mark.parametrize("hostile", [False, True])
@pytest.mark.parametrize("kind", PARTS)
def test_one_patient_more_moves_a_steps_sum_by_at_most_the_bound(kind: str, hostile: bool, clipping: str, sums: Sums) -> None:
    chosen = replace_settings(part_of(kind), {"privacy.clipping": clipping})
    together, others, alone = sums(chosen, lambda: network_of(chosen, hostile=hostile))

    assert np.linalg.norm(together - others - alone) <= 1e-9
    assert 0 < np.linalg.norm(alone) <= chosen.privacy.clip_norm == 1


def with_hostile_rest(chosen: TrainingProtocol, scale: float, *, drawn: bool) -> nn.Module:
    """What stays multiplied by `scale`, or numbers of that size added to it: a public file is anybody's."""
    network, generator = network_of(chosen), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in network.modules():
            for weight in layer._held[0].parameters() if isinstance(layer, Fixed) else ():
                weight.add_(torch.randn(weight.shape, generator=generator) * scale) if drawn else weight.mul_(scale)
    return network


@pytest.mark.parametrize("drawn", [False, True], ids=["scaled", "drawn"])
@pytest.mark.parametrize("scale", [1e4, 1e15, 1e30, 3e38])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", PARTS)
def test_nor_does_one_more_where_what_stays_is_hostile(kind: str, precision: str, scale: float, drawn: bool, sums: Sums) -> None:
    chosen = replace_settings(part_of(kind), {"training.precision": precision})
    together, others, alone = sums(chosen, lambda: with_hostile_rest(chosen, scale, drawn=drawn))

    assert np.linalg.norm(together - others - alone) <= 1e-9
    assert np.linalg.norm(alone) <= chosen.privacy.clip_norm == 1
    assert scale > 1e4 or np.linalg.norm(alone) > 0.9, "a gradient that overflows is left out, and shows nothing"


@pytest.mark.parametrize("clipping", ["flat", "normalised"])
def test_features_that_are_kept_give_the_very_step_that_whole_images_give(clipping: str) -> None:
    chosen, data = replace_settings(part_of("head"), {"privacy.clipping": clipping}), dataset()
    whole, kept = network_of(chosen), network_of(chosen)
    front, place = fixed_front(kept), Resources(threads=1, device="cpu")
    assert front is not None
    for network, features in ((whole, None), (kept, features_of(data.pixels, front))):
        noise = AesNoise.seeded(0)
        train(data, protocol=chosen, plan=plan(), model=network, round=1, noise=noise, resources=place, features=features)
    assert np.array_equal(pack(whole), pack(kept))


# ── at a site ──

Written = tuple[TrainingProtocol, Path]


@pytest.fixture
def written(tmp_path: Path, protocol_bytes: bytes) -> Callable[[str], Written]:
    """A protocol that trains a part, and the public file that it builds on."""

    def make(kind: str) -> Written:
        base = network_protocol(protocol_bytes)
        other = build(base.model.model_copy(update={"seed": 77}), n_outputs=1, height=8, width=8)
        path = tmp_path / "public.safetensors"
        write_weights(base, pack(other), path, lineage={})
        part = replace_settings(base, PARTS[kind])
        whole = public_vector(part, path, fresh="head")
        told = {"model": vector_hash(first_vector(part, whole)), "weights": file_hash(path), "fresh": "head"}
        return replace_settings(part, {"model.initial": {"kind": "public", "source": "invented, here", **told}}), path

    return make


def first_of(chosen: TrainingProtocol, path: Path) -> np.ndarray:
    return check_public(chosen, path)


def preview_of(home: Home, chosen: TrainingProtocol):
    with open_site(home.path) as site:
        return look(home, site.ledger.opening, site.ledger.account, render_protocol(chosen), declared_size=60)


def test_a_site_that_does_not_hold_what_stays_cannot_approve(make_site, written) -> None:
    home, (chosen, path) = make_site(), written("head")
    with open_site(home.path) as site, pytest.raises(MisuseError, match="are not kept here: fedrad-site weights"):
        approve(site, render_protocol(chosen), declared_size=60)

    keep_file(home.path, path, chosen.model.initial)
    seen = preview_of(home, chosen)
    assert seen.obstacles == ()
    assert (facts(seen)["trains"], facts(seen)["holds_weights"]) == ("head", True)
    shown = "\n".join(lines(seen))
    assert "read from this site's own file; of invented, here" in shown
    assert "trains        its last layer; all else stays as it is" in shown
    assert f"{first_of(chosen, path).size} numbers beside a network of {whole_size(chosen)} weights" in shown


def test_the_policy_counts_what_stays_too(make_site, coordinator, written) -> None:
    home, (chosen, path) = make_site(), written("head")
    keep_file(home.path, path, chosen.model.initial)
    ask = Asking.approved(home, coordinator, chosen).with_model(first_of(chosen, path))
    toml, size = home.path / "site.toml", whole_size(chosen)
    toml.write_text(re.sub(r"max_parameters = \d+", f"max_parameters = {size - 1}", toml.read_text()))
    refusal = f"{size} weights of the whole network is not accepted here: policy.max_parameters allows {size - 1}"

    assert size > 10 * ask.model.size
    assert preview_of(home, chosen).obstacles == (refusal,)
    with open_site(home.path) as site:  # approved before
        assert answer(site, asked(ask.order(), ask.model, ask.key, home.path), work=run_inline) == Answer(refusal="policy")
    toml.write_text(re.sub(r"max_parameters = \d+", f"max_parameters = {size}", toml.read_text()))
    assert preview_of(home, chosen).obstacles == ()


def test_a_preview_tells_the_parts_apart(make_site, written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approval, "check_trainable", lambda *arguments: ())  # this small network is not what is looked at
    home, shown = make_site(), {}
    for kind in PARTS:
        chosen, _ = written(kind)
        seen = preview_of(home, chosen)
        assert (facts(seen)["trains"], facts(seen)["rank"], facts(seen)["n_weights"]) == (kind, chosen.model.rank, whole_size(chosen))
        (shown[kind],) = (line for line in lines(seen) if line.startswith("  trains "))
    assert len(set(shown.values())) == 3
    assert "the second halves of detours of 2 channels" in shown["lora-up"]


def test_what_stays_is_never_what_each_machine_draws(make_site, written) -> None:
    home, (chosen, _) = make_site(), written("lora-up")
    (obstacle,) = preview_of(home, replace_settings(chosen, {"model.trains": "head", "model.rank": None, "model.initial": {}})).obstacles
    assert "with model.trains 'head' what stays would be as each machine draws it" in obstacle


def test_a_file_that_changed_at_the_site_is_no_basis(make_site, written) -> None:
    home, (chosen, path) = make_site(), written("lora")
    keep_file(home.path, path, chosen.model.initial)
    kept = kept_file(home.path, chosen.model.initial)
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")

    (obstacle,) = preview_of(home, chosen).obstacles
    assert "another file, or a changed one" in obstacle


def test_public_weights_of_which_all_is_trained_need_no_file_at_the_site(make_site, written) -> None:
    """As those of a run: the first round's model must be the approved one. Who holds the file has compared more, and is told so."""
    home, (chosen, path) = make_site(), written("head")
    whole = {"model.trains": "all", "model.initial.model": vector_hash(public_vector(chosen, path, fresh="head"))}
    chosen = replace_settings(chosen, whole)
    assert "says the coordinator: invented, here" in "\n".join(lines(preview_of(home, chosen)))

    keep_file(home.path, path, chosen.model.initial)
    assert "read from this site's own file" in "\n".join(lines(preview_of(home, chosen)))


@pytest.mark.parametrize("kind", PARTS)
def test_a_confined_child_reads_the_sites_own_file(make_site, written, kind: str) -> None:
    home, (chosen, path) = make_site(), written(kind)
    keep_file(home.path, path, chosen.model.initial)
    model = first_of(chosen, path)
    job = dataclasses.replace(job_on(home.cohort, chosen), home=home.path)
    compute.forget()
    here = run_inline(job, model)

    assert here.shape == model.shape
    assert model.size < pack(build(whole_of(chosen.model), n_outputs=1, height=8, width=8)).size
    for each in (job, dataclasses.replace(job, kind="evaluate")):
        np.testing.assert_array_equal(run_child(each, model, home=home.path), run_inline(each, model))


def test_a_warm_child_sees_a_file_that_came_after_it_was_started(make_site, written) -> None:
    home, (chosen, path) = make_site(), written("head")
    job = dataclasses.replace(job_on(home.cohort, chosen), home=home.path)
    compute.forget()
    with Worker(home, warm=False) as worker:
        keep_file(home.path, path, chosen.model.initial)
        model = first_of(chosen, path)
        np.testing.assert_array_equal(worker(job, model), run_inline(job, model))


def test_another_files_features_are_never_taken_for_these(make_site, written) -> None:
    home, (chosen, path) = make_site(), written("head")
    keep_file(home.path, path, chosen.model.initial)
    seeds = replace_settings(chosen, {"model.initial": {"kind": "random"}})
    model = first_of(chosen, path)
    compute.forget()
    public = run_inline(dataclasses.replace(job_on(home.cohort, chosen), home=home.path), model)
    random = run_inline(dataclasses.replace(job_on(home.cohort, seeds), home=home.path, round=2), model)

    assert not np.array_equal(public, random)


def lost(file: Path) -> None:
    file.unlink()


def changed(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1] + b"x")


def unreadable(file: Path) -> None:
    """For any account, also one that no permission stops: a link to itself."""
    file.unlink()
    file.symlink_to(file)


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("harm", [lost, changed, unreadable, a_folder])
def test_a_file_that_is_not_the_approved_one_refuses_each_order_before_anything_is_spent(make_site, coordinator, written, harm) -> None:
    home, (chosen, path) = make_site(), written("head")
    keep_file(home.path, path, chosen.model.initial)
    ask = Asking.approved(home, coordinator, chosen).with_model(first_of(chosen, path))
    kept = kept_file(home.path, chosen.model.initial)
    assert keeps(home.path, chosen.model.initial)  # known by heart until it is touched
    harm(kept)
    with open_site(home.path) as site:
        for _ in range(2):
            given = answer(site, asked(ask.order(), ask.model, ask.key, home.path), work=run_inline)

            assert given == Answer(refusal="internal")
            assert site.audit.entries[-1].body["reason"] == "weights-lost"
        assert (site.ledger.account.training, site.ledger.account.answers, site.ledger.account.runs) == (0, 0, ())
    assert REASONS["weights-lost"][0] == "internal"


def test_a_file_that_was_brought_again_answers(make_site, coordinator, written) -> None:
    home, (chosen, path) = make_site(), written("head")
    keep_file(home.path, path, chosen.model.initial)
    ask = Asking.approved(home, coordinator, chosen).with_model(first_of(chosen, path))
    changed(kept_file(home.path, chosen.model.initial))
    with open_site(home.path) as site:
        assert answer(site, asked(ask.order(), ask.model, ask.key, home.path), work=run_inline).refusal == "internal"
        keep_file(home.path, path, chosen.model.initial)
        assert answer(site, asked(ask.order(), ask.model, ask.key, home.path), work=run_inline).refusal is None


def test_a_large_file_is_read_once_for_many_orders(make_site, written, monkeypatch: pytest.MonkeyPatch) -> None:
    home, (chosen, path) = make_site(), written("head")
    keep_file(home.path, path, chosen.model.initial)
    read: list[Path] = []
    monkeypatch.setattr(weights, "sha256_file", lambda file: read.append(file) or sha256_file(file))
    assert [keeps(home.path, chosen.model.initial) for _ in range(3)] == [True] * 3
    assert len(read) == 1

    os.utime(kept_file(home.path, chosen.model.initial))
    assert keeps(home.path, chosen.model.initial)
    assert len(read) == 2


def test_a_site_keeps_only_the_file_that_the_protocol_names(make_site, written, tmp_path: Path) -> None:
    home, (chosen, path) = make_site(), written("head")
    (tmp_path / "chosen.toml").write_bytes(render_protocol(chosen))
    other = tmp_path / "other.safetensors"
    other.write_bytes(path.read_bytes() + b" ")

    arguments = ["weights", str(tmp_path / "chosen.toml"), "--home", str(home.path)]
    refused = CliRunner().invoke(app, [*arguments, str(other)])
    assert isinstance(refused.exception, MisuseError)
    assert not (home.path / "weights").exists()
    assert CliRunner().invoke(app, [*arguments, str(path)]).exit_code == 0
    assert [each.name for each in (home.path / "weights").iterdir()] == [f"{file_hash(path)}.safetensors"]


def test_a_file_that_changes_while_it_is_brought_is_not_kept(make_site, written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, (chosen, path) = make_site(), written("head")
    (tmp_path / "chosen.toml").write_bytes(render_protocol(chosen))
    monkeypatch.setattr(weights, "check_public", lambda protocol, file: file.write_bytes(file.read_bytes() + b" "))
    refused = CliRunner().invoke(app, ["weights", str(tmp_path / "chosen.toml"), str(path), "--home", str(home.path)])

    assert isinstance(refused.exception, MisuseError)
    assert "another file, or a changed one" in str(refused.exception)
    assert not (home.path / "weights").exists()


def test_weights_are_kept_at_a_site_and_nowhere_else(written, tmp_path: Path) -> None:
    chosen, path = written("head")
    (tmp_path / "chosen.toml").write_bytes(render_protocol(chosen))
    refused = CliRunner().invoke(app, ["weights", str(tmp_path / "chosen.toml"), str(path), "--home", str(tmp_path)])

    assert isinstance(refused.exception, MisuseError)
    assert "no site here" in str(refused.exception)
    assert not (tmp_path / "weights").exists()
