"""Many sites on one machine, running the same code as the real ones: `fedrad_sim.run("demo", Path("out")) -> Result`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedrad_sim.simulate import Result, run

__all__ = ["Result", "run"]


def __getattr__(name: str) -> Any:
    """Load the simulator when it is first asked for, so that `fedrad-sim --help` answers at once."""
    if name in __all__:
        from fedrad_sim import simulate

        return getattr(simulate, name)
    raise AttributeError(name)
