"""Fifty bundles that a coordinator could start a run with: foreign ones, and the shipped stub with something put into it."""

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

from fedrad_common.bundle import LICENSE, PYPROJECT, stub
from fedrad_common.canonical import sha256_hex

# isort: split
from flwr.cli.build import build_fab_from_files

_APP = b"""
import os, pathlib
folder = pathlib.Path(os.environ.get("FEDRAD_CANARY", "/nonexistent"))
if folder.is_dir():
    (folder / "CANARY-NUMBER").write_text(__name__)
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
app = ClientApp()
server = ServerApp()
@app.train()
def train(message, context):
    raise ValueError("WORDS")
"""
_PLACES = (  # where the code lies, and the module that the bundle names as its ClientApp
    ("hostile/client.py", "hostile.client"),
    ("client.py", "client"),
    ("fedrad_client/app.py", "fedrad_client.app"),
    ("fedrad_common/messages.py", "fedrad_client.app"),
    ("sitecustomize.py", "fedrad_client.app"),
    ("flwr/clientapp.py", "client"),
    ("conftest.py", "fedrad_client.app"),
    ("usercustomize.py", "fedrad_client.app"),
    ("numpy/core.py", "fedrad_client.app"),
    ("fedrad_client/work/job.py", "fedrad_client.app"),
)


@dataclass(frozen=True)
class Bundle:
    name: str
    content: bytes

    @property
    def digest(self) -> str:
        return sha256_hex(self.content)


def code(number: int, words: str = "hostile") -> bytes:
    return _APP.replace(b"NUMBER", str(number).encode()).replace(b"WORDS", words.encode())


def plain(number: int, words: str) -> Bundle:
    """An app as anybody would write it."""
    return Bundle("plain", _built({"hostile/__init__.py": b"", "hostile/client.py": code(number, words)}, client="hostile.client"))


def bundles() -> Iterator[Bundle]:
    for number, (path, client) in enumerate(_PLACES):
        yield Bundle(f"foreign: {path}", _built({path: code(number)}, client=client))
        yield Bundle(f"modified: {path} added", _added({path: code(100 + number)}))
        yield Bundle(f"modified: ../{path} added", _added({f"../../{path}": code(200 + number)}))
        yield Bundle(f"modified: /tmp/{path} added", _added({f"/tmp/{path}": code(300 + number)}))
        yield Bundle(f"modified: {path} in the stub's own words", _edited(client, {path: code(400 + number)}))


def _built(files: dict[str, bytes], *, client: str) -> bytes:
    pyproject = PYPROJECT.replace(b"fedrad_client.app:app", f"{client}:app".encode())
    pyproject = pyproject.replace(b'fab-include = ["LICENSE"]', b'fab-include = ["**/*.py", "LICENSE"]')
    content: bytes = build_fab_from_files({"pyproject.toml": pyproject, "LICENSE": LICENSE, **files})[0]
    return content


def _added(files: dict[str, bytes]) -> bytes:
    """The stub, byte for byte but for its end."""
    out = io.BytesIO(stub())
    with zipfile.ZipFile(out, "a") as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)
    return out.getvalue()


def _edited(client: str, files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(stub())) as former, zipfile.ZipFile(out, "w") as bundle:
        for name in former.namelist():
            content = former.read(name).replace(b"fedrad_client.app:app", f"{client}:app".encode())
            bundle.writestr(name, content)
        for name, content in files.items():
            bundle.writestr(name, content)
    return out.getvalue()
