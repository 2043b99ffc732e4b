"""The sheet that a hospital's network people print: one host, one port, outbound; what must not be opened, and how much will flow."""

import math
from typing import Any

from fedrad_client.node.contact import BEAT, LOOK
from fedrad_client.site import Home
from fedrad_client.traffic import bytes_a_round
from fedrad_common.address import parse_address
from fedrad_common.errors import MisuseError
from fedrad_common.page import document
from fedrad_common.page.markup import Content, element, join, note, section, table

_EXTRA = 1.01  # signatures, frames and TLS
REQUEST = 2000  # bytes of a request at rest and its answer, with headers, signature, TLS and TCP
CUT = ("tls-intercepted", "cut", "timeout", "proxy-refused")  # of TROUBLES: what such a device looks like from inside
RULES = (
    ("allow", "outbound TCP from this machine to {host}, port {port}; TLS 1.2 or newer, begun by this machine"),
    ("allow", "DNS for {host}, or an entry in /etc/hosts; no other name is ever looked up"),
    ("allow", "NTP to your own time server: above 120 s of difference every request is refused"),
    ("deny", "everything inbound: the node listens on no port of the network"),
    ("deny", "every other destination: no updates, no telemetry, no package index, no model hub"),
)
PROXY = (
    "Set HTTPS_PROXY=http://NAME:PASSWORD@PROXY:PORT in the service's environment file; the node then asks it for CONNECT {host}:{port}.",
    "127.0.0.1 and localhost never go through a proxy; NO_PROXY names further exceptions.",
    "The proxy must pass the connection through unopened. Its own authority is not believed, and must not be added to keys/authority.pem.",
)
INSPECTION = (
    "Exempt {host}:{port} from TLS inspection at proxy, firewall and antivirus: the node believes the coordinator's authority only.",
    "Exempt it from content and size limits: one request has up to 8 MiB, one connection stays open for minutes.",
    "Exempt the virtual environment from on-access scanning, where starting takes longer than a minute.",
    f"If something is cut all the same, fedrad-site doctor names it: {', '.join(CUT)}.",
)


def facts(home: Home, *, server: str | None = None) -> dict[str, Any]:
    """Raises MisuseError: site.toml names no coordinator, and neither does the caller."""
    config = home.config
    text = server or config.coordinator.server
    if not text:
        raise MisuseError("site.toml: coordinator.server is empty", hint="enrol first, or name it with --server HOST:PORT")
    address = parse_address(text, what="--server" if server else "coordinator.server")
    return {
        "site": config.site.name,
        "host": address.host,
        "port": address.port,
        "direction": "outbound",
        "transport": "TCP, TLS 1.2 or newer",
        "inbound": [],
        "authority": config.coordinator.authority or "this machine's own list",
        "at_rest": _at_rest(),
        "traffic": [row for name in home.approvals if (row := _traffic(home, name))],
    }


def lines(value: dict[str, Any]) -> list[str]:
    rows = [f"firewall sheet of site {value['site']}", ""]
    rows += [f"  {verb:<6} {text.format(**value)}" for verb, text in RULES]
    for title, texts in (("proxy", PROXY), ("antivirus and TLS inspection", INSPECTION)):
        rows += ["", f"  {title}", *(f"    {text.format(**value)}" for text in texts)]
    rows += ["", "  traffic expected, both ways together", f"    {'at rest':<24} {_said(value['at_rest'])}"]
    rows += [
        f"    {row['protocol']:<24} {_size(row['bytes_per_round'])} a round, {row['rounds']} rounds: {_size(row['bytes'])} in all"
        for row in value["traffic"]
    ]
    return rows


def page(value: dict[str, Any]) -> str:
    """The same as a page for printing."""
    rules: list[list[Content]] = [[verb, text.format(**value)] for verb, text in RULES]
    traffic: list[list[Content]] = []
    traffic += [[row["protocol"], _size(row["bytes_per_round"]), row["rounds"], _size(row["bytes"])] for row in value["traffic"]]
    tile = (("host", value["host"]), ("port", value["port"]), ("direction", "outbound only"), ("protocol", "TLS over TCP"))
    body = join(
        [
            element(
                "header",
                element("p", "fedrad · firewall sheet", class_="eyebrow"),
                element("h1", value["site"]),
                element(
                    "div",
                    *(element("div", element("span", name, class_="name"), element("strong", text), class_="tile") for name, text in tile),
                    class_="tiles",
                ),
            ),
            element(
                "main",
                section("rules", "Rules", table(["", "what"], rules)),
                section("proxy", "Outbound proxy", _list(PROXY, value)),
                section("inspection", "Antivirus and TLS inspection", _list(INSPECTION, value)),
                section(
                    "traffic",
                    "Traffic, both ways together",
                    table(["protocol", "a round", "rounds", "in all"], traffic, numbers=(1, 2, 3)),
                    note(f"At rest: {_said(value['at_rest'])}."),
                    note("Of the protocols that are approved now; a repeated round is sent again."),
                ),
            ),
        ]
    )
    return document(f"{value['site']} · firewall sheet", body, {})


def _list(texts: tuple[str, ...], value: dict[str, Any]) -> Content:
    return element("ul", *(element("li", text.format(**value)) for text in texts))


def _at_rest() -> dict[str, int]:
    """At most: heartbeats, and looks for an order."""
    a_minute = 60 / BEAT + 60 / LOOK
    return {"requests_per_minute": math.ceil(a_minute), "bytes_per_day": round(a_minute * 60 * 24 * REQUEST)}


def _said(rest: dict[str, int]) -> str:
    return f"{rest['requests_per_minute']} requests a minute, of about {_size(REQUEST)} each: {_size(rest['bytes_per_day'])} a day"


def _traffic(home: Home, name: str) -> dict[str, Any] | None:
    found = home.approved(name)
    if found is None:
        return None
    protocol, plan = found
    bytes_ = bytes_a_round(protocol, plan.n_parameters, evaluates=plan.evaluation != "none")
    return {
        "protocol": protocol.name,
        "rounds": bytes_.rounds,
        "bytes_per_round": int(bytes_.largest * _EXTRA),
        "bytes": int(bytes_.whole_run * _EXTRA),
    }


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.0f} kB"
