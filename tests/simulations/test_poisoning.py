"""Two of ten hospitals lie: the mean breaks, the median holds. All attacks and strategies: `simulations/benchmarks/poisoning.py`."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("poisoning_benchmark", ROOT / "simulations" / "benchmarks" / "poisoning.py")
assert SPEC is not None
assert SPEC.loader is not None
poisoning = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = poisoning  # its dataclasses look themselves up there
SPEC.loader.exec_module(poisoning)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    settings = {"privacy.rounds": 10, "privacy.expected_batch": 24.0, "model.options": {"channels": 8}}
    return poisoning.build(tmp_path_factory.mktemp("poisoning"), seed=5, scale=0.3, held_out=200, settings=settings)


def test_a_poisoned_minority_breaks_the_mean_and_not_the_median(world) -> None:  # type: ignore[no-untyped-def]
    clean, poisoned, robust = (
        poisoning.play(world, strategy, attack)
        for strategy, attack in (("fedavg", "none"), ("fedavg", "sign flip x10"), ("median", "sign flip x10"))
    )
    assert clean - poisoned >= 0.15
    assert clean - robust <= 0.05


def test_a_lie_needs_no_code_at_the_hospital_that_it_did_not_write_itself() -> None:
    """The honest work is called as it is, and only what it gave is changed; evaluations stay true."""
    seen = []

    def work(job, model):  # type: ignore[no-untyped-def]
        seen.append(job.kind)
        return model + 1

    job = type("Job", (), {"kind": "evaluate"})()
    assert poisoning.lying(work, "sign flip")(job, 1.0) == 2.0
    assert seen == ["evaluate"]
