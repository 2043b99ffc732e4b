"""Whether torch, opacus and flwr can be imported here, seen in a child process: an import may hang, crash, or take seconds and memory."""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any

from fedrad_common import processes

MODULES = ("torch", "opacus", "flwr")
PATIENCE = 60.0  # seconds; a cold disk needs some of them


@dataclass(frozen=True)
class Imported:
    failed: tuple[str, ...]  # modules that cannot be imported
    in_time: bool = True
    gpu: bool | None = None  # None: torch did not say


class ImportCheck:
    """Starts the child at once, and waits for it only when somebody asks. `modules` and `patience` are changed by tests."""

    def __init__(self, *, modules: tuple[str, ...] = MODULES, patience: float = PATIENCE) -> None:
        self.modules, self.patience = modules, patience
        self._found = Imported(modules)  # nothing can, until the child says so
        # The kernel ends the child with the thread that started it; this one lives until it has the answer.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self) -> Imported:
        self._thread.join()
        return self._found

    def _run(self) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError):  # no process can be started, or what it says is not what ours says
            self._found = self._asked()

    def _asked(self) -> Imported:
        child = processes.start(
            "fedrad_client.doctor.imports", *self.modules, environment=os.environ,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            said, _ = child.communicate(timeout=self.patience)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            return Imported((), in_time=False)
        return _understood(said, self.modules)


def _understood(said: bytes, modules: tuple[str, ...]) -> Imported:
    """One line a module that was imported, so that a crash names the one after the last line."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in said.splitlines() if line.startswith(b"{")]
    good = {line["module"] for line in lines if line["good"]}
    seen = [bool(line["gpu"]) for line in lines if "gpu" in line]
    return Imported(tuple(name for name in modules if name not in good), gpu=any(seen) if seen else None)


def main(modules: list[str]) -> None:
    """The child. What an import prints or says is nobody's business: one line a module is."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in modules:
        line: dict[str, Any] = {"module": name, "good": True}
        try:
            module = importlib.import_module(name)
            if name == "torch":
                line["gpu"] = bool(module.cuda.is_available())
        except Exception:  # a broken package may raise anything; which one it is says enough
            line["good"] = False
        out.write(json.dumps(line) + "\n")
        out.flush()


if __name__ == "__main__":
    processes.tie()
    main(sys.argv[1:])
