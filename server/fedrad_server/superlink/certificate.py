"""The public socket's certificate: TLS 1.2 or newer, and a renewed file counts without a restart."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from fedrad_common.errors import FedradError
from fedrad_server.authority import SERVER, SERVER_KEY
from fedrad_server.log import say

_HINT = "restore keys/ from the backup, or make it anew: fedrad-coordinator renew HOME"


@dataclass
class ServerCertificate:
    """Raises FedradError when there is no certificate, or its key is another's."""

    home: Path
    context: ssl.SSLContext = field(init=False)
    _stamp: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self._stamp = self._look()
        self.context = self._read()

    def renew(self) -> None:
        """Use the files for new connections where they changed; while they are wrong or half-written, the former ones stay in use."""
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return
            self._read()
            self.context.load_cert_chain(self.home / SERVER, self.home / SERVER_KEY)
        except (FedradError, OSError) as error:
            say(f"the renewed certificate cannot be used: {error if isinstance(error, FedradError) else type(error).__name__}")
            return
        self._stamp = stamp
        say("the server's certificate was renewed")

    def _look(self) -> tuple[int, ...]:
        try:
            found = [(self.home / name).stat() for name in (SERVER, SERVER_KEY)]
        except OSError as error:
            raise FedradError(f"{SERVER}: cannot be read ({type(error).__name__})", hint=_HINT) from None
        return tuple(number for one in found for number in (one.st_mtime_ns, one.st_ino, one.st_size))

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION  # the first costs us a handshake for a packet of theirs
        try:
            context.load_cert_chain(self.home / SERVER, self.home / SERVER_KEY, password="")
        except (OSError, ValueError) as error:
            raise FedradError(f"{SERVER}: is no certificate with its key {SERVER_KEY} ({type(error).__name__})", hint=_HINT) from None
        return context
