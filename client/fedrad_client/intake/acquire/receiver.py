"""A C-STORE receiver: a PACS or a modality sends, the inbox keeps. Who may call, and by which name, stands in site.toml."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pynetdicom import evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined] # made when it is imported

from fedrad_client.config import Receive
from fedrad_client.intake.acquire.associations import SYNTAXES, entity, storage
from fedrad_client.intake.acquire.inbox import Inbox
from fedrad_client.intake.reading.content import MAX_FILE_BYTES
from fedrad_common.errors import DiskError, FedradError, MisuseError

# PS3.4 B.2.3 and PS3.7 C: what the sender is told.
SUCCESS, NO_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000


@dataclass(frozen=True)
class Received:
    """Files."""

    received: int
    known: int  # of them, already there
    refused: int

    @property
    def line(self) -> str:
        return f"{self.received} files received, {self.known} of them again, {self.refused} refused"


@dataclass
class Receiver:
    """Listens from `start` on until `stop`. `said` hears of each association's end, in numbers only."""

    inbox: Inbox
    settings: Receive
    said: Callable[[str], None] = lambda line: None
    refused: int = 0
    _arriving: dict[Any, int] = field(default_factory=dict)  # bytes of the message that each association is sending
    _server: Any = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> tuple[str, int]:
        """Address and port. Raises MisuseError: nobody may call; FedradError: the address cannot be listened at."""
        if not self.settings.callers:
            raise MisuseError("site.toml: receive.callers: nobody may call", hint="list the AE titles of those that send")
        own = entity(self.settings.title)
        own.require_called_aet = True
        own.require_calling_aet = list(self.settings.callers)
        own.maximum_associations = self.settings.associations
        own.supported_contexts = storage()
        own.add_supported_context(Verification, SYNTAXES[:3])
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._store), (evt.EVT_DATA_RECV, self._bound), (evt.EVT_C_ECHO, lambda event: SUCCESS),
            (evt.EVT_RELEASED, self._ended), (evt.EVT_ABORTED, self._ended), (evt.EVT_CONN_CLOSE, self._closed),
        ]  # fmt: skip
        try:
            self._server = own.start_server((self.settings.address, self.settings.port), block=False, evt_handlers=handlers)
        except OSError:
            where = f"{self.settings.address}:{self.settings.port}"
            raise FedradError(
                f"receive: cannot listen at {where}", hint="another program does, or this machine has no such address"
            ) from None
        address, port = self._server.socket.getsockname()[:2]
        return str(address), int(port)

    def stop(self) -> None:
        """Ends what is under way; a file that was not acknowledged is sent again by its sender."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _store(self, event: Any) -> int:
        with self._lock:
            self._arriving[event.assoc] = 0
        try:
            self.inbox.put(event.encoded_dataset())
        except DiskError:
            return self._refuse(NO_RESOURCES)
        except Exception:  # whatever is in it; its text may quote the file
            return self._refuse(CANNOT_UNDERSTAND)
        return SUCCESS

    def _refuse(self, status: int) -> int:
        with self._lock:
            self.refused += 1
        return status

    def _bound(self, event: Any) -> None:
        """A message without end would fill the memory."""
        with self._lock:
            total = self._arriving[event.assoc] = self._arriving.get(event.assoc, 0) + len(event.data)
        if total > MAX_FILE_BYTES + (1 << 20):
            event.assoc.abort()

    def _closed(self, event: Any) -> None:
        with self._lock:
            self._arriving.pop(event.assoc, None)

    def _ended(self, event: Any) -> None:
        del event
        self.said(self.line)

    @property
    def so_far(self) -> Received:
        return Received(self.inbox.received, self.inbox.known, self.refused)

    @property
    def line(self) -> str:
        return self.so_far.line
