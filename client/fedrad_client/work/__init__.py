"""What a site computes for one order: here, or in a child without network, keys or ledger."""

from fedrad_client.work.child import UnconfinedError
from fedrad_client.work.compute import run_inline
from fedrad_client.work.job import Job, Work, from_json, to_json
from fedrad_client.work.worker import Worker, run_child

__all__ = ["Job", "UnconfinedError", "Work", "Worker", "from_json", "run_child", "run_inline", "to_json"]
