"""The public socket's door: slow and endless senders are cut, and nobody crowds an admitted site out."""

import asyncio
import contextlib
import socket
import ssl

import pytest
import uvicorn

from fedrad_common.chain import utc_now
from fedrad_server.authority import make_authority, make_server_certificate
from fedrad_server.superlink import connections
from fedrad_server.superlink.certificate import ServerCertificate
from fedrad_server.superlink.connections import Conversation, Door, Visitors, network_of


class Crowd:
    """Connections that note when they were pushed out."""

    def __init__(self, **limits):
        self.visitors, self.out = Visitors(**limits), []

    def enter(self, name, host="192.0.2.1"):
        return self.visitors.enter(host, lambda: self.out.append(name))


def test_one_address_pushes_out_only_itself():
    crowd = Crowd(strangers=10, strangers_each=3)
    crowd.enter("other", "192.0.2.9")
    for number in range(6):
        crowd.enter(number)

    assert crowd.out == [0, 1, 2]
    assert crowd.visitors.count() == 4


def test_where_all_places_are_taken_the_busiest_address_gives_one():
    crowd = Crowd(strangers=4, strangers_each=3)
    crowd.enter("site", "192.0.2.9")
    for number in range(3):
        crowd.enter(number)
    crowd.enter("late", "192.0.2.8")

    assert crowd.out == [0]


def test_no_stranger_pushes_out_a_connection_that_carried_a_sites_signature():
    crowd = Crowd(strangers=2, strangers_each=2)
    crowd.enter("site").recognise("north")
    for number in range(50):
        crowd.enter(number, f"192.0.2.{number}")

    assert "site" not in crowd.out
    assert crowd.visitors.count() == 3


def test_a_sites_own_connections_are_bounded_and_the_longest_unused_goes():
    crowd = Crowd(each_site=2)
    first, second, third = (crowd.enter(name) for name in ("first", "second", "third"))
    for visitor in (first, second, first, third):
        visitor.recognise("north")

    assert crowd.out == ["second"]


def test_a_connection_that_was_pushed_out_does_not_come_back_and_one_that_left_leaves_nothing():
    crowd = Crowd(strangers_each=1)
    first, second = crowd.enter("first"), crowd.enter("second")
    first.recognise("north")
    second.recognise("north")
    second.leave()
    second.leave()

    assert crowd.visitors == Visitors(strangers_each=1)


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_ipv6_network_counts_as_one_address(host, network):
    assert network_of(host) == network


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    (home / "keys").mkdir()
    make_authority(home, now=utc_now())
    make_server_certificate(home, ("localhost",), now=utc_now())
    return home


@contextlib.asynccontextmanager
async def open_door(home, tls=None, **settings):
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=Conversation, lifespan="off", ws="none", log_config=None, timeout_keep_alive=connections.IDLE,
        h11_max_incomplete_event_size=connections.HEAD_BYTES,
    )  # fmt: skip
    config.load()
    server = uvicorn.Server(config)
    door = Door(listening, tls or ServerCertificate(home).context, config, server.server_state, **settings)
    door.open()
    try:
        yield door, listening.getsockname()[1]
    finally:
        door.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)


async def connect(home, port):
    context = ssl.create_default_context(cafile=home / "keys" / "authority.pem")
    return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")


async def until_closed(reader):
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while await asyncio.wait_for(reader.read(65536), 5):
            pass


async def close(*writers):
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(0.01)


def test_a_request_gets_its_answer_and_the_connection_goes_on(certified):
    async def play():
        async with open_door(certified) as (door, port):
            reader, writer = await connect(certified, port)
            answers = []
            for _ in range(2):
                writer.write(b"GET /a HTTP/1.1\r\nhost: localhost\r\n\r\n")
                answers.append(await reader.readuntil(b"\r\n\r\n"))
            await close(writer)
            return answers, door.visitors.count()

    answers, left = asyncio.run(play())
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    assert left == 0


@pytest.mark.parametrize(
    "beginning",
    [b"", b"GET /a HTTP/1.1\r\nhost: local", b"GET /a HTTP/1.1\r\nhost: localhost\r\n\r\nGET /b"],
    ids=["silence", "half a head", "half a second head"],
)
def test_who_does_not_finish_a_requests_head_is_cut(certified, monkeypatch, beginning):
    monkeypatch.setattr(connections, "HEAD", 0.2)

    async def play():
        async with open_door(certified) as (door, port):
            reader, writer = await connect(certified, port)
            if beginning:
                writer.write(beginning)
            await until_closed(reader)
            await close(writer)
            return door.visitors.count()

    assert asyncio.run(play()) == 0


def test_trickling_a_head_does_not_win_time(certified, monkeypatch):
    monkeypatch.setattr(connections, "HEAD", 0.3)

    async def play():
        async with open_door(certified) as (_, port):
            reader, writer = await connect(certified, port)

            async def trickle():
                for letter in b"GET /" + b"a" * 10_000:
                    writer.write(bytes([letter]))
                    await asyncio.sleep(0.02)

            trickling = asyncio.create_task(trickle())
            await until_closed(reader)
            trickling.cancel()
            await close(writer)

    asyncio.run(asyncio.wait_for(play(), 5))


def test_a_head_without_end_is_refused_at_its_bound(certified):
    async def play():
        async with open_door(certified) as (_, port):
            reader, writer = await connect(certified, port)
            writer.write(b"GET /a HTTP/1.1\r\nx: " + b"a" * 40_000)
            answer = await asyncio.wait_for(reader.readline(), 5)
            await close(writer)
            return answer

    assert asyncio.run(play()) == b"HTTP/1.1 400 Bad Request\r\n"


@pytest.mark.parametrize("greeting", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"], ids=["silence", "no TLS", "half a hello"])
def test_who_does_not_speak_tls_in_time_is_cut(certified, greeting):
    async def play():
        async with open_door(certified, handshake=0.2) as (door, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(greeting)
            await until_closed(reader)
            await close(writer)
            return door.visitors.count()

    assert asyncio.run(play()) == 0


def test_strangers_in_the_middle_of_their_handshake_count(certified):
    async def play():
        async with open_door(certified, visitors=Visitors(strangers_each=3)) as (door, port):
            idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
            reader, writer = await connect(certified, port)
            writer.write(b"GET /a HTTP/1.1\r\nhost: localhost\r\n\r\n")
            answer = await reader.readline()
            count = door.visitors.count()
            await close(writer, *[one for _, one in idle])
            return answer, count

    assert asyncio.run(play()) == (b"HTTP/1.1 200 OK\r\n", 3)


def test_tls_before_1_2_is_not_spoken(certified):
    async def play():
        async with open_door(certified) as (_, port):
            context = ssl.create_default_context(cafile=certified / "keys" / "authority.pem")
            context.minimum_version, context.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, ssl.TLSVersion.TLSv1_1
            await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")

    # OpenSSL 3 refuses by itself what an older one would still speak.
    assert ServerCertificate(certified).context.minimum_version == ssl.TLSVersion.TLSv1_2
    with pytest.warns(DeprecationWarning, match="TLS"), pytest.raises((ssl.SSLError, ConnectionError)):
        asyncio.run(play())


def test_a_renewed_certificate_counts_without_a_restart_and_a_broken_one_changes_nothing(certified, tmp_path):
    import shutil

    home = tmp_path / "home"
    shutil.copytree(certified, home)
    certificate = ServerCertificate(home)

    async def serial():
        async with open_door(home, certificate.context) as (_, port):
            _, writer = await connect(home, port)
            found = writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]
            await close(writer)
            return found

    first = asyncio.run(serial())
    make_server_certificate(home, ("localhost",), now=utc_now())
    certificate.renew()
    second = asyncio.run(serial())
    (home / "keys" / "server.key").write_bytes(b"half-written")
    certificate.renew()
    third = asyncio.run(serial())

    assert first != second
    assert second == third


def test_a_missing_certificate_is_said_with_a_remedy(tmp_path):
    from fedrad_common.errors import FedradError

    with pytest.raises(FedradError, match=r"server\.pem") as error:
        ServerCertificate(tmp_path)
    assert "fedrad-coordinator renew" in error.value.hint
