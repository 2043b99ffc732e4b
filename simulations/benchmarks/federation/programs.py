"""Programs as a person starts them, each in a session of its own; and what /proc says of them: their children, their memory, their end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_PATIENCE = 120.0  # seconds for a command of one shot, on a machine that others use too


class BrokenError(Exception):
    """Something did not happen. The text is for whoever runs the benchmark; it may quote our own programs' words."""


@dataclass
class Programs:
    """What was started below one folder. Every start has a log of its own there: NAME-NUMBER.log, and .out for stdout."""

    folder: Path
    sessions: set[int] = field(default_factory=set)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)  # the last one of each name
    logs: dict[str, Path] = field(default_factory=dict)  # likewise
    _number: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the caller's own, neither proxies nor settings, but where the code lies."""
        home = self.folder / "user"
        home.mkdir(exist_ok=True)
        return {"PATH": "/usr/bin:/bin", "HOME": str(home), "LANG": "C.UTF-8", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}

    def start(self, name: str, program: str, *arguments: object) -> subprocess.Popen[bytes]:
        self._number += 1
        log = self.folder / f"{name}-{self._number}.log"
        with log.open("wb") as stream, log.with_suffix(".out").open("wb") as out:
            process = subprocess.Popen(
                command(program, *arguments), env=self.environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=stream,
                start_new_session=True,
            )  # fmt: skip
        self.sessions.add(process.pid)
        self.running[name], self.logs[name] = process, log
        return process

    def run(self, program: str, *arguments: object, fine: Iterable[int] = (0,)) -> str:
        """One command to its end; its stdout. Raises BrokenError with its words where it ends with another code than `fine`."""
        ended = subprocess.run(
            command(program, *arguments),
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
        )
        if ended.returncode not in fine:
            raise BrokenError(f"{program} {arguments[0]}: exit code {ended.returncode}\n{ended.stdout}{ended.stderr}")
        return ended.stdout

    def finish(self, *names: str) -> None:
        """Wait for programs that end by themselves. Raises BrokenError where one fails."""
        for name in names:
            if self.running[name].wait(_PATIENCE):
                raise BrokenError(f"{name}: failed\n{self.log(name)}")

    def log(self, name: str) -> str:
        return self.logs[name].read_text() if name in self.logs else ""

    def until(self, condition: Callable[[], object], *, what: str, seconds: float = _PATIENCE, interval: float = 0.01) -> float:
        """Seconds until it came true. Raises BrokenError, with the end of every log, where it does not."""
        begun = time.monotonic()
        while not condition():
            if time.monotonic() - begun > seconds:
                words = "\n".join(f"--- {name}\n{self.log(name)[-2000:]}" for name in self.logs)
                raise BrokenError(f"{what}: not within {seconds:g} s\n{words}")
            time.sleep(interval)
        return time.monotonic() - begun

    def left(self) -> list[int]:
        """Processes whose session one of ours led, and that still live."""
        return [pid for pid, (_, session, state) in processes().items() if session in self.sessions and state != "Z"]

    def stop(self, *names: str) -> None:
        """SIGTERM, in this order, and wait for each. Raises BrokenError where one says that it failed."""
        for name in names:
            process = self.running.get(name)
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for name in names:
            if name in self.running and self.running[name].wait(30):
                raise BrokenError(f"{name}: ended with {self.running[name].returncode}\n{self.log(name)[-2000:]}")

    def end(self) -> list[int]:
        """Ask all to end, then make them. Returns the processes that were no child of a program still running: orphans."""
        for process in self.running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
        orphans = self.left()
        for pid in orphans:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.running.values():
            process.wait()
        return orphans


def command(program: str, *arguments: object) -> list[str]:
    """One of ours by its name, as installed beside this interpreter; or a file beside this one, run by it."""
    if program.endswith(".py"):
        return [sys.executable, str(Path(__file__).parent / program), *map(str, arguments)]
    return [str(Path(sys.executable).with_name(program)), *map(str, arguments)]


def processes() -> dict[int, tuple[int, int, str]]:
    """Parent, session and state of every process of this machine."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError):
                state, parent, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                found[int(entry.name)] = (int(parent), int(session), state)
    return found


def tree(root: int) -> list[int]:
    """A process and all that descend from it, dead ones not counted."""
    known = processes()
    found = [root] if root in known and known[root][2] != "Z" else []
    for pid in found:
        found += [child for child, (parent, _, state) in known.items() if parent == pid and state != "Z"]
    return found


def kill(process: "subprocess.Popen[bytes]") -> int:
    """SIGKILL to every process of a program at once. Returns how many they were."""
    doomed = tree(process.pid)
    for pid in doomed:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    return len(doomed)
