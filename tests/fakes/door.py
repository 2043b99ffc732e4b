"""A coordinator's door for the doctor: one TLS port on loopback that answers, or fails in one of the ways in which real networks fail."""

import contextlib
import json
import socket
import ssl
import struct
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedrad_common import __version__

KNOWN, UNKNOWN = 2003, 2004  # Flower's codes: an interval it refuses, of a node that it knows; and a node that it does not know


@dataclass(frozen=True)
class Authority:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def make_authority(name: str = "test authority") -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=900))
        .not_valid_after(now + timedelta(days=900))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(key, certificate)


def certify(authority: Authority, path: Path, *names: str, days: tuple[float, float] = (-1, 400)) -> Path:
    """Key and certificate for `names`, valid from now + days[0] to now + days[1], in one file."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    alternatives = [x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name) for name in names]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(names[0]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


@dataclass
class Door:
    """`fails`: "" · "reset at first" · "silent at first" · "plain" · "reset after request" · "half an answer" · "silent after request"
    · "block page" · "deep answer". Proxies: "proxy 407" · "proxy 403" · "proxy 200" (a tunnel to this very door)."""

    certificate: Path | None = None
    fails: str = ""
    ahead: float = 0.0  # seconds, of its clock
    version: str = __version__
    admits: bool = True
    requests: list[str] = field(default_factory=list)  # first lines
    _listening: socket.socket = field(default_factory=socket.socket)
    _open: list[socket.socket] = field(default_factory=list)
    _thread: threading.Thread | None = None

    def __enter__(self) -> "Door":
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen(16)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        assert self._thread
        self._thread.join()
        for stream in [self._listening, *self._open]:
            stream.close()

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _serve(self) -> None:
        while True:
            try:
                stream, _ = self._listening.accept()
            except OSError:
                return
            stream.settimeout(10)
            with contextlib.suppress(OSError, ssl.SSLError):
                self._greet(stream)
            if not self.fails.startswith("silent"):
                stream.close()
            self._open.append(stream)

    def _greet(self, stream: socket.socket) -> None:
        if self.fails == "reset at first":
            stream.recv(1)
            _reset(stream)
        elif self.fails.startswith("proxy"):
            self.requests.append(_head(stream)[0])
            status = self.fails.split()[1]
            stream.sendall(f"HTTP/1.1 {status} its own words\r\ncontent-length: 0\r\n\r\n".encode())
            if status == "200":
                self._encrypted(stream)
        elif self.fails == "plain":
            stream.recv(1)
            stream.sendall(b"HTTP/1.1 200 OK\r\n\r\n<html>please log in</html>")
        elif self.fails != "silent at first":
            self._encrypted(stream)

    def _encrypted(self, stream: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        assert self.certificate
        context.load_cert_chain(self.certificate)
        with context.wrap_socket(stream, server_side=True, suppress_ragged_eofs=True) as tls:
            self._answer(tls)

    def _answer(self, tls: ssl.SSLSocket) -> None:
        first, length = _head(tls)
        self.requests.append(first)
        while length > 0:
            length -= len(tls.recv(length))
        if self.fails == "silent after request":
            self._open.append(socket.socket(fileno=tls.detach()))
            return
        if self.fails == "reset after request":
            _reset(tls)
            return
        status, body = self._reply(first)
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=self.ahead), usegmt=True)
        cut = 7 if self.fails == "half an answer" else 0
        head = f"HTTP/1.1 {status} -\r\ndate: {date}\r\ncontent-length: {len(body) + cut}\r\nconnection: close\r\n\r\n"
        tls.sendall(head.encode() + body)

    def _reply(self, first: str) -> tuple[int, bytes]:
        if self.fails == "block page":
            return 200, b"<html>this category is not allowed</html>"
        if self.fails == "deep answer":
            return 400, b'{"code":' + b"[" * 20_000
        if first.startswith("GET /health "):
            return 200, json.dumps({"format": "fedrad-health-1", "version": self.version}).encode()
        if not self.admits:
            return 401, b""
        return 400, json.dumps({"code": KNOWN, "detail": "no"}).encode()


def _head(stream: socket.socket) -> tuple[str, int]:
    """First line and content-length."""
    text = b""
    while b"\r\n\r\n" not in text:
        part = stream.recv(1)
        if not part:
            raise OSError("gone")
        text += part
    lines = text.decode("latin-1").split("\r\n")
    lengths = [int(line.partition(":")[2]) for line in lines if line.lower().startswith("content-length:")]
    return lines[0], sum(lengths)


def _reset(stream: socket.socket) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()
