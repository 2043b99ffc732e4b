"""The stub that Flower wants before it starts a run: it carries no code. Nobody unpacks it, or loads what it names.

Its bytes are shipped, not built: deflate's output depends on a machine's zlib. A coordinator starts runs with these bytes only, and its
server process refuses a run with any other hash; a site's node never fetches a bundle at all.
"""

from importlib.resources import files

from fedrad_common.canonical import sha256_hex
from fedrad_common.errors import FormatError

HASH = "d1f710c260efbbca0ca085b9b9b97274ceb45cd075d41b065e4ddb6ec778880b"
PYPROJECT = b"""\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "fedrad"
version = "1.0.0"
description = "Stub: names the installed apps, carries no code"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedrad"
fab-include = ["LICENSE"]

[tool.flwr.app.components]
serverapp = "fedrad_server.app:app"
clientapp = "fedrad_client.app:app"

[tool.flwr.app.config]
run = ""
"""
LICENSE = b"Apache-2.0\n"


def stub() -> bytes:
    """The shipped bytes. Raises FormatError when the installed file is not the one whose hash stands here."""
    content = files("fedrad_common").joinpath("stub.fab").read_bytes()
    if sha256_hex(content) != HASH:
        raise FormatError("stub.fab: is not the bundle of this version", hint="install fedrad again")
    return content


def build() -> bytes:
    """Make the bundle anew: the same files inside, other bytes where zlib is another."""
    from fedrad_common import offline  # noqa: F401 - first: Flower reads its switches at import

    # isort: split
    from flwr.cli.build import build_fab_from_files

    content: bytes = build_fab_from_files({"pyproject.toml": PYPROJECT, "LICENSE": LICENSE})[0]
    return content
