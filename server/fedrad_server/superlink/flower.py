"""Flower's SuperLink as an application: our token in front of Control, our store for vectors, nobody's bundles executed."""

import contextlib
import hmac
import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrad_common import offline  # noqa: F401 - first: Flower reads its switches at import

# isort: split
from flwr.common.constant import ACCESS_TOKEN_KEY, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, TRANSPORT_TYPE_GRPC_RERE
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.auth.typing import AccountInfo
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.routers.runtime.tracing import RuntimeTracingMiddleware
from flwr.superlink import main
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.routers.control.middlewares import ControlEventLogMiddleware, ControlLicenseMiddleware
from flwr.superlink.routers.fleet.middlewares import FleetEventLogMiddleware
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from fedrad_server.log import say
from fedrad_server.superlink.files import SuperLinkFiles
from fedrad_server.superlink.fleet import FleetRules
from fedrad_server.superlink.objects import FileObjectStore
from fedrad_server.superlink.purge import Purge
from fedrad_server.superlink.state import LinkState

# Layers of Flower's that only serve what is switched off here: an event log, a licence, tracing. Each costs every request its share.
_IDLE = (ControlEventLogMiddleware, ControlLicenseMiddleware, FleetEventLogMiddleware, RuntimeTracingMiddleware)


@dataclass(frozen=True)
class Flower:
    app: ASGIApp
    purge: Purge


class TokenPlugin(NoOpControlAuthnPlugin):  # type: ignore[misc] # Flower's own extension point
    """Control asks for our bearer token; Flower's open-source default lets everybody in."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def validate_tokens_in_metadata(self, metadata: Sequence[tuple[str, str | bytes]]) -> tuple[bool, Any]:
        given = dict(metadata).get(ACCESS_TOKEN_KEY, "")
        given = given.encode() if isinstance(given, str) else given
        if not self._token or not hmac.compare_digest(given, self._token):
            return False, None
        return True, AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=NOOP_ACCOUNT_NAME)


def build(files: SuperLinkFiles) -> Flower:
    """Open the database and make the application; guards go around it."""
    _shrink(files)
    objects = FileObjectStore(files.database, files.objects)
    objects.open()
    # Host and port of the last two lines' kind are only told to a superexec of Flower's own, which isolation "process" does without.
    config = SuperLinkLifespanConfig(
        control_address="", health_server_address=None, host="127.0.0.1", port=0, insecure=True, certificates=None,
        superexec_auth_secret=files.secret.encode(), authn_plugin=TokenPlugin(files.token), event_log_plugin=None,
        fleet_event_log_plugin=None, enable_event_log=False, artifact_provider=None, enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE, fleet_api_address=None, simulation=False, ssl_ca_certfile=None, ssl_certfile=None,
        ssl_keyfile=None, database=str(files.database), isolation="process", runtime_dependency_install=False,
    )  # fmt: skip
    with _storing_in(objects):
        app = main.create_app(config, SuperLinkLifespan)
    app.openapi_url = None
    state = app.state.linkstate_factory.state()
    app.user_middleware = [layer for layer in app.user_middleware if layer.cls not in _IDLE] + [Middleware(FleetRules, state=state)]
    return Flower(app, Purge(state, objects))


@contextlib.contextmanager
def _storing_in(objects: FileObjectStore) -> Iterator[None]:
    """Flower chooses its store and its state by the database's address alone: for the block, it gets ours."""

    def factories(database: str, federations: Any) -> tuple[ObjectStoreFactory, LinkStateFactory]:
        stores = ObjectStoreFactory(database)
        stores.store_instance = objects
        links = LinkStateFactory(database, federations, stores)
        links.state_instance = LinkState(database, federations, objects)
        links.state_instance.initialize()
        return stores, links

    former = main.get_objectstore_linkstate_factories
    main.get_objectstore_linkstate_factories = factories
    try:
        yield
    finally:
        main.get_objectstore_linkstate_factories = former


def _shrink(files: SuperLinkFiles) -> None:
    """Give back the room of deleted rows; it holds names and numbers only, so this takes milliseconds. A damaged one gives way."""
    if not files.database.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(files.database)) as database:
            database.execute("VACUUM")
    except sqlite3.OperationalError:  # no room for it, or somebody looks into it: the server does without
        return
    except sqlite3.DatabaseError:
        _set_aside(files.database)


def _set_aside(database: Path) -> None:
    """It holds nothing that cannot be made anew: nodes come from the roster, open runs begin a new epoch."""
    numbers = (number for number in itertools.count(1) if not database.with_name(f"{database.name}.damaged-{number}").exists())
    kept = f"{database.name}.damaged-{next(numbers)}"
    for suffix in ("-wal", "-shm", "-journal", ""):  # SQLite would apply them to the new one
        with contextlib.suppress(FileNotFoundError):
            database.with_name(database.name + suffix).replace(database.with_name(kept + suffix))
    say(f"server: {database.name} is damaged: kept as {kept}, and made anew")
