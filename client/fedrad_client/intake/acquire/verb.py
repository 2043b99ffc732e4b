"""`fedrad-site receive` and `pull`: the site's own settings and keys, applied to what comes in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from fedrad_client.intake.acquire.arrivals import Arrivals
from fedrad_client.intake.acquire.found import Archive, Pulled, pull
from fedrad_client.intake.acquire.inbox import Inbox
from fedrad_client.intake.acquire.query import Dimse, Pull, read_pull, secret_beside
from fedrad_client.intake.acquire.receiver import Received, Receiver
from fedrad_client.intake.deid.keys import PseudonymKeys
from fedrad_client.site import Home
from fedrad_common.errors import MisuseError
from fedrad_common.progress import progress_bar


def receive(home: Home, stop: threading.Event, *, said: Callable[[str], None]) -> Received:
    """Until `stop` is set. Raises what `Receiver.start` does."""
    receiver = Receiver(Inbox.of(home.path), home.config.receive, said)
    address, port = receiver.start()
    said(f"receiving as {home.config.receive.title} at {address}:{port}")
    try:
        stop.wait()
    finally:
        receiver.stop()
    return receiver.so_far


def pull_from(home: Home, path: Path, *, dry_run: bool, quiet: bool) -> Pulled:
    """Fetch what a query file names into the inbox.

    Raises:
        ConfigError: the file is malformed. MisuseError: a file beside it, or the receiver's settings. FedradError: the archive.
    """
    asked = read_pull(path)
    inbox = Inbox.of(home.path)
    arrivals = Arrivals.of(inbox.folder, PseudonymKeys.from_secret(home.pseudonym_secret))
    receiver = _receiver(home, asked.dimse, inbox, dry_run=dry_run)
    try:
        with progress_bar("fetching series", quiet=quiet) as advance:
            return pull(_archive(asked, path, receiver), asked.query, arrivals, inbox.put, dry_run=dry_run, progress=advance)
    finally:
        if receiver is not None:
            receiver.stop()


def _receiver(home: Home, peer: Dimse | None, inbox: Inbox, *, dry_run: bool) -> Receiver | None:
    if peer is None or peer.retrieve != "move" or dry_run:
        return None
    settings = home.config.receive
    if settings.title != peer.own_title:
        raise MisuseError("dimse.own_title: differs from receive.title in site.toml", hint="with move, the archive sends to that title")
    receiver = Receiver(inbox, settings)
    receiver.start()
    return receiver


def _archive(asked: Pull, path: Path, receiver: Receiver | None) -> Archive:
    if asked.dimse is not None:
        from fedrad_client.intake.acquire.dimse import DimseArchive

        return DimseArchive(asked.dimse, None if receiver is None else lambda: receiver.inbox.received)
    from fedrad_client.intake.acquire.web import WebArchive

    web = asked.dicomweb
    assert web is not None
    credentials = secret_beside(path, web.credentials) if web.credentials else ""
    if credentials and web.url.startswith("http://"):
        raise MisuseError("dicomweb.url: credentials would travel unencrypted", hint="use https")
    authority = path.parent / web.authority if web.authority else None
    if authority is not None and not authority.is_file():
        raise MisuseError("dicomweb.authority: no such file", hint="it stands beside the query file")
    return WebArchive.at(web.url, credentials=credentials, authority=str(authority or ""))


def lines_of(done: Pulled, *, dry_run: bool) -> list[str]:
    if dry_run:
        return [f"{done.series} series fit, {done.known} of them fetched before; nothing was fetched"]
    rows = [f"{done.images} images of {done.fetched} series fetched; {done.known} of {done.series} series were there already"]
    if done.failed:
        rows.append(f"  {done.failed} series broke off: run the same command again")
    return [*rows, "  next  fedrad-site ingest --protocol PROTOCOL --labels LABELS"]


def facts_of(done: Pulled) -> dict[str, object]:
    return {"format": "fedrad-pulled-1", **asdict(done)}
