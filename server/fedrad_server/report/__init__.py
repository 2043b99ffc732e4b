"""The run report: one self-contained HTML file, from the run's records alone."""

from pathlib import Path

from fedrad_common.files import write_atomic
from fedrad_server.report.comparison import Arm, Comparison
from fedrad_server.report.inputs import Head, Release, ReportInput
from fedrad_server.report.page import page
from fedrad_server.report.records import read_input

__all__ = ["Arm", "Comparison", "Head", "Release", "ReportInput", "page", "read_input", "write_report"]


def write_report(run: Path, out: Path, *, comparison: Path | None = None) -> None:
    """Write the report of `run`, finished or not, to the file `out`, whole or not at all; an older one is replaced.

    Args:
        comparison: a simulation's arms; by default the run's own `result/comparison.json`, if there is one.

    Raises:
        MisuseError: `run` is no run. FormatError: a record is not what was signed. FedradError: the disk is full.
    """
    document = page(read_input(run, comparison=comparison))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, document.encode(), mode=0o644)
