"""Keeps the coordinator's processes: its server, and one player at a time. Killed and started again, it goes on by itself.

Single-threaded on purpose: the kernel ends a child with the thread that started it (`fedrad_common.processes`).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fedrad_common import chain
from fedrad_common.errors import FedradError
from fedrad_server import wanted
from fedrad_server.keeper import LONGEST_PAUSE, Child, End, Keeper, Spawn, pause_after
from fedrad_server.layout import EVENTS
from fedrad_server.player import FINISHED, PASSING, PAUSED
from fedrad_server.superlink.files import SuperLinkFiles

SERVER, TIDY, PLAYER = "fedrad_server.superlink", "fedrad_server.tidying", "fedrad_server.player"
PATIENCE = 120.0  # seconds for the server to listen, also on a machine that others keep busy
UNWELL = 30.0  # seconds in which a server that listens says that it does not serve, or nothing; then it is started anew
MOST_FAILURES = 5  # of one player with no round between them; then the next run goes on
HOPELESS = 3  # failures of a server that never listened: its port or its certificate needs a person
_LOOK = 0.3  # between two looks for wanted runs
_ASK = 5.0  # between two questions to the server how it is
_NAMES = {SERVER: "server", TIDY: "tidying", PLAYER: "player"}


@dataclass
class Playing:
    """The run that is played, or was last; and how often its player failed since a round was closed."""

    run: Path
    rounds: int = 0  # closed when it last failed
    count: int = 0
    noted: bool = False  # that it is set aside


@dataclass
class Supervisor:
    """`step` looks at everything once; `shut_down` ends all in order. Processes, clock and words are arguments: tests have their own."""

    home: Path
    spawn: Spawn
    end: End
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    on_ready: Callable[[], None] = lambda: None  # once: a server listens for the first time
    on_aside: Callable[[Path], None] = lambda run: None
    is_well: Callable[[], bool] = lambda: True  # whether a server that listens says that it serves; may take seconds
    server: Keeper = field(default_factory=lambda: Keeper(SERVER))
    tidy: Keeper = field(default_factory=lambda: Keeper(TIDY))
    player: Keeper = field(default_factory=lambda: Keeper(PLAYER))
    playing: Playing | None = None
    untidy: bool = True
    listening: bool = False
    listened: bool = False  # ever
    well: float = 0.0  # when the server last said that it serves
    ask: float = 0.0  # when to ask it again
    finished: set[Path] = field(default_factory=set)
    unreadable: dict[Path, float] = field(default_factory=dict)  # until when each run is passed over
    look: float = 0.0  # when to look for wanted runs again

    @property
    def files(self) -> SuperLinkFiles:
        return SuperLinkFiles(self.home / "superlink")

    def step(self) -> None:
        """Raises FedradError when the server cannot be started at all."""
        self._keep_server()
        self._keep_tidy()
        self._keep_player()

    def shut_down(self) -> None:
        """The player first: its run stays resumable. The server last, for the others say goodbye to it."""
        for keeper in (self.player, self.tidy, self.server):
            if keeper.process is not None:
                code = self.end(keeper.process)
                self.say(f"{_NAMES[keeper.module]}: ended, code {code}")
                keeper.process = None

    def _keep_server(self) -> None:
        keeper = self.server
        if keeper.process is not None and (code := keeper.process.poll()) is not None:
            self._lost_server(code)
        if keeper.process is None:
            if self.clock() >= keeper.due:
                self.files.ready_file.unlink(missing_ok=True)  # of one that was killed
                self._start(keeper, str(self.home))
        elif not self.listening:
            self._await_server(keeper.process)
        elif self.clock() >= self.ask:
            self._ask_server(keeper.process)

    def _await_server(self, process: Child) -> None:
        try:
            self.listening = self.files.serving.pid == process.pid
        except FedradError:  # not yet
            self.listening = False
        if self.listening:
            self.server.failures, self.untidy, self.tidy.due = 0, True, 0.0
            self.well, self.ask = self.clock(), self.clock() + _ASK
            self.say("server: listens")
            if not self.listened:
                self.listened = True
                self.on_ready()
        elif self.clock() - self.server.since > PATIENCE:
            self.say(f"server: does not listen after {PATIENCE:.0f} s")
            self._lost_server(self.end(process))

    def _ask_server(self, process: Child) -> None:
        """One that hangs keeps its sockets and answers nobody: only its own word tells."""
        if self.is_well():
            self.well = self.clock()
        elif self.clock() - self.well > UNWELL:
            self.say(f"server: does not serve for {UNWELL:.0f} s, though it lives")
            self._lost_server(self.end(process))
        self.ask = self.clock() + _ASK

    def _lost_server(self, code: int) -> None:
        self.listening = False
        self._failed(self.server, code)
        if not self.listened and self.server.failures >= HOPELESS:
            raise FedradError(
                f"the coordinator's server does not start: code {code}, {HOPELESS} times", hint="its own words stand above this line"
            )

    def _keep_tidy(self) -> None:
        """A short child after each start of the server; what it does, it may do at any time."""
        keeper = self.tidy
        if keeper.process is not None and (code := keeper.process.poll()) is not None:
            if code:
                self._failed(keeper, code)
            else:
                keeper.process, keeper.failures, self.untidy = None, 0, False
        if keeper.process is None and self.listening and self.untidy and self.clock() >= keeper.due:
            self._start(keeper, str(self.home))

    def _keep_player(self) -> None:
        keeper = self.player
        if keeper.process is not None and self.playing is not None:
            code = keeper.process.poll()
            if code is None and self._still_wants(self.playing.run):
                return
            if code is None:
                code = self.end(keeper.process)
            keeper.process = None
            self._player_ended(self.playing, code)
        if not self.listening or self.clock() < self.look:
            return
        self.look = self.clock() + _LOOK
        run = self._next()
        if self.playing is None or self.playing.run != run:
            self.playing, keeper.failures, keeper.due = None if run is None else Playing(run), 0, 0.0
        if run is not None and self.clock() >= keeper.due:
            self._start(keeper, str(self.home), run.name)

    def _player_ended(self, playing: Playing, code: int) -> None:
        run = playing.run
        if code in (FINISHED, PAUSED) or not self._still_wants(run):
            self.say(f"run {run.name}: its player ended, code {code}")
            self.playing, self.player.failures, self.player.due = None, 0, 0.0
            return
        if (rounds := closed_rounds(run)) != playing.rounds:
            playing.rounds, playing.count, self.player.failures = rounds, 0, 0
        self._failed(self.player, code)
        # A full disk, a lock, a server that was away: none of them is the run's fault, and all of them pass.
        if code == PASSING or not self.listening or self.server.since > self.player.since or not self.is_well():
            return
        playing.count += 1
        if playing.count >= MOST_FAILURES:
            self._set_aside(playing, f"its player failed {MOST_FAILURES} times with no round between, the last time with code {code}")

    def _set_aside(self, playing: Playing, reason: str) -> None:
        """Where that fails (a full disk, a clock that went back), the player is tried once more, and then this again."""
        run = playing.run
        try:
            if not playing.noted:
                self.on_aside(run)
                playing.noted = True
            wanted.pause(run, reason)
        except (FedradError, OSError) as error:
            self.say(f"run {run.name}: cannot be set aside: {error if isinstance(error, FedradError) else type(error).__name__}")
            return
        self.say(f"run {run.name}: set aside: {reason}")
        self.playing, self.player.failures, self.player.due = None, 0, 0.0

    def _next(self) -> Path | None:
        """The run that was launched first among those that are wanted and not finished. One that cannot be read stops no other."""
        found = []
        for run in wanted.folders(self.home):
            if run in self.finished or self.clock() < self.unreadable.get(run, 0.0):
                continue
            try:
                if not self._wants(run):
                    continue
                if is_finished(run):
                    self.finished.add(run)
                    continue
                found.append((wanted.launch_order(run), run))
            except FedradError as error:
                if run not in self.unreadable:
                    self.say(f"run {run.name}: is passed over: {error}")
                self.unreadable[run] = self.clock() + LONGEST_PAUSE
        return min(found)[1] if found else None

    def _wants(self, run: Path) -> bool:
        found = wanted.read(run)
        return found is not None and found.state == "run"

    def _still_wants(self, run: Path) -> bool:
        """What cannot be read is no word: the player goes on."""
        try:
            return self._wants(run)
        except FedradError:
            return True

    def _start(self, keeper: Keeper, *arguments: str) -> None:
        keeper.process = self.spawn(keeper.module, *arguments)
        keeper.since = self.clock()
        if keeper.module != TIDY:
            what = f" of run {arguments[1]}" if keeper.module == PLAYER else ""
            self.say(f"{_NAMES[keeper.module]}{what}: started, process {keeper.process.pid}")

    def _failed(self, keeper: Keeper, code: int) -> None:
        keeper.process = None
        keeper.failures += 1
        pause = pause_after(keeper.failures)
        keeper.due = self.clock() + pause
        self.say(f"{_NAMES[keeper.module]}: ended with code {code}; starts again in {pause:g} s")


def closed_rounds(run: Path) -> int:
    return sum(1 for _ in (run / "rounds").glob("[0-9]*/manifest.json"))


def is_finished(run: Path) -> bool:
    """Raises FormatError when the run's events are damaged."""
    return any(entry.type == "finished" for entry in chain.read(run / EVENTS, "events"))
