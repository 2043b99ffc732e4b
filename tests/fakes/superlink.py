"""The coordinator's server as a real process on loopback, and a site as far as its requests go."""

import base64
import contextlib
import http.client
import os
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey, generate_private_key

from fakes.patience import PATIENCE
from fedrad_common import processes
from fedrad_common.identity import NodePublicKey, SigningKey
from fedrad_common.requests import sign_request
from fedrad_server.home import Home, Member
from fedrad_server.superlink.files import Ports, SuperLinkFiles


@dataclass
class Site:
    """A site's name and keys."""

    name: str = "north"
    key: EllipticCurvePrivateKey = field(default_factory=lambda: generate_private_key(SECP384R1()))

    @property
    def public(self) -> NodePublicKey:
        return NodePublicKey(self.key.public_key())

    @property
    def member(self) -> Member:
        return Member(envelope=SigningKey.generate().public.hex, node=self.public.pem, admitted="2026-01-01")

    def headers(self, path: str, body: bytes = b"", *, now: float | None = None, method: str = "POST") -> dict[str, str]:
        """As our node signs a request: ours, and the one of Flower's that names the key."""
        signed = sign_request(self.key, site=self.name, method=method, path=path, body=body, now=now)
        return {**signed, "flwr-public-key": base64.b64encode(self.public.pem.encode()).decode()}


def admit(home: Home, *sites: Site) -> None:
    home.save_members({site.name: site.member for site in sites})


@dataclass(frozen=True)
class Server:
    home: Home
    process: "subprocess.Popen[bytes]"
    ports: Ports

    @property
    def files(self) -> SuperLinkFiles:
        return self.home.superlink

    @property
    def authority(self) -> Path:
        return self.home.directory / "keys" / "authority.pem"

    @property
    def memory(self) -> int:
        """Bytes that it holds."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])

    def ask(
        self, path: str, *, body: bytes = b"", headers: dict[str, str] | None = None, method: str = "POST", private: bool = False
    ) -> http.client.HTTPResponse:
        """One request over a connection of its own; the answer is read."""
        if private:
            connection = http.client.HTTPConnection("127.0.0.1", self.ports.private, timeout=PATIENCE)
        else:
            context = ssl.create_default_context(cafile=self.authority)
            connection = http.client.HTTPSConnection("localhost", self.ports.public, timeout=PATIENCE, context=context)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"content-type": "application/protobuf", **(headers or {})})
            response = connection.getresponse()
            response.read()
            return response


@contextlib.contextmanager
def serving(home: Home, log: Path) -> Iterator[Server]:
    """Killed at the end if it does not end by itself."""
    with log.open("ab") as stream:
        process = processes.start(
            "fedrad_server.superlink", str(home.directory), environment=dict(os.environ), stdout=stream, stderr=stream, process_group=0
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while not home.superlink.ready_file.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield Server(home, process, home.superlink.serving)
        if process.returncode != -signal.SIGKILL:  # a test may have killed it
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
