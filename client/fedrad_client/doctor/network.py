"""Can the coordinator be reached, is it the one that it should be, and does it know this site? One visit, looked at step by step."""

from collections.abc import Iterator

from fedrad_client.doctor.faults import Finding, fault, fine, skipped
from fedrad_client.doctor.subject import Subject
from fedrad_client.doctor.visit import Stage, of_trouble
from fedrad_client.node.key import PRIVATE, read_node_key
from fedrad_common import __version__
from fedrad_common.errors import FedradError
from fedrad_common.requests import WINDOW

_DRIFT = 30.0  # seconds by which a clock may be off before it is worth a word
_SOON = 30  # days
_NOT_SO_FAR = "the connection did not come so far"


def address(subject: Subject) -> Iterator[Finding]:
    """HOST:PORT of the coordinator."""
    yield _said(subject, "address", subject.address)


def name(subject: Subject) -> Iterator[Finding]:
    """The host's name, looked up; behind a proxy the proxy does that."""
    yield _said(subject, "name", "the proxy looks it up" if _proxied(subject) else "can be looked up")


def route(subject: Subject) -> Iterator[Finding]:
    """A connection to the port, through the proxy that the environment names."""
    yield _said(subject, "route", "through the proxy" if _proxied(subject) else "the port is open")


def certificate(subject: Subject) -> Iterator[Finding]:
    """TLS: the server's certificate, by the authority of the site's folder."""
    said = _said(subject, "certificate", "of a known authority, for this name, valid now")
    days = subject.visit.days_left
    yield fault("certificate-soon", days=days) if said.verdict == "ok" and days is not None and days < _SOON else said


def answer(subject: Subject) -> Iterator[Finding]:
    """The coordinator's answer to GET /health."""
    yield _said(subject, "answer", "the coordinator answers")


def clock(subject: Subject) -> Iterator[Finding]:
    """This machine's clock beside the coordinator's."""
    ahead = subject.visit.ahead
    if ahead is None:
        yield skipped(_NOT_SO_FAR)
        return
    values = {"seconds": round(abs(ahead)), "direction": "ahead" if ahead > 0 else "behind"}
    code = "clock" if abs(ahead) > WINDOW else "clock-drifts"
    yield fault(code, **values) if abs(ahead) > _DRIFT else fine("as the coordinator's")


def version(subject: Subject) -> Iterator[Finding]:
    """The coordinator's release of fedrad."""
    theirs = subject.visit.version
    if theirs is None:
        yield skipped("the coordinator did not say")
    else:
        yield fine(f"fedrad {theirs} on both sides") if theirs == __version__ else fault("version-differs", theirs=theirs, ours=__version__)


def admitted(subject: Subject) -> Iterator[Finding]:
    """Does the coordinator know this site's node key?"""
    visit = subject.visit
    if visit.finding or visit.route is None or subject.settings is None:
        yield skipped(_NOT_SO_FAR)
        return
    from fedrad_client.node.connection import check_in

    try:
        key = read_node_key(subject.home / PRIVATE)
    except (OSError, FedradError):
        yield skipped("the node's key cannot be read")
        return
    trouble = check_in(visit.route, key, site=subject.settings.site.name)
    if trouble is None:
        yield fine("this site is admitted")
    else:  # a clock that is off has a check of its own
        yield skipped("not told, while the clocks differ") if trouble.code == "clock" else of_trouble(trouble)


def _proxied(subject: Subject) -> bool:
    return subject.visit.route is not None and subject.visit.route.proxy is not None


def _said(subject: Subject, stage: Stage, good: str) -> Finding:
    try:
        return subject.visit.said_of(stage) or fine(good)
    except LookupError:
        return skipped(_NOT_SO_FAR)
