"""Faults between a site and its coordinator, and of the machine, each made for real: certificates, proxies, clocks, packages, limits."""

import resource
import socket
import sys

from fakes.ailing import World, injects, sets
from fakes.door import make_authority
from fakes.terminal import small_disk
from fedrad_client.doctor import machine
from fedrad_client.doctor.imports import ImportCheck
from fedrad_client.sandbox import Confinement

# The way to the coordinator
sets("clock", ahead=305.0)
sets("clock", ahead=-305.0)
sets("clock-drifts", ahead=60.0)
sets("version-differs", version="9.9.9")
sets("not-admitted", admits=False)
sets("cut", fails="reset at first")
sets("cut", fails="reset after request")
sets("cut", fails="half an answer")
sets("timeout", fails="silent at first")
sets("timeout", fails="silent after request")
sets("no-tls", fails="plain")
sets("not-fedrad", fails="block page")
sets("not-fedrad", fails="deep answer")


@injects("tls-expired")
def expired(world: World) -> None:
    world.certify(days=(-60, -1))


@injects("tls-expired", "clock")
def expired_for_a_clock_that_is_wrong(world: World) -> None:
    world.certify(days=(-60, -1))
    world.door.ahead = -40 * 86400


@injects("tls-not-yet-valid")
def not_yet_valid(world: World) -> None:
    world.certify(days=(1, 60))


@injects("certificate-soon")
def ends_soon(world: World) -> None:
    world.certify(days=(-60, 9))


@injects("tls-name")
def for_another_name(world: World) -> None:
    world.certify("other.example")


@injects("tls-authority")
def of_an_unknown_authority(world: World) -> None:
    world.certify(by=make_authority("somebody else"))


@injects("tls-intercepted")
def opened_by_an_antivirus(world: World) -> None:
    antivirus = make_authority("antivirus")
    (world.folder / "trusted.pem").write_bytes(antivirus.pem)
    world.patch.setenv("SSL_CERT_FILE", str(world.folder / "trusted.pem"))
    world.certify(by=antivirus)


@injects("dns")
def no_such_name(world: World) -> None:
    world.server = "coordinator.invalid:9092"


@injects("refused")
def closed_port(world: World) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        world.server = f"127.0.0.1:{free.getsockname()[1]}"


@injects("proxy-unreachable")
def no_proxy_there(world: World) -> None:
    closed_port(world)
    world.patch.setenv("HTTPS_PROXY", f"http://{world.server}")
    world.server = "coordinator.test:9092"


@injects("proxy-login")
def proxy_asks_for_a_password(world: World) -> None:
    world.door.fails = "proxy 407"
    world.patch.setenv("HTTPS_PROXY", f"http://{world.server}")
    world.server = "coordinator.test:9092"


@injects("proxy-refused")
def proxy_says_no(world: World) -> None:
    proxy_asks_for_a_password(world)
    world.door.fails = "proxy 403"


@injects("connection-settings")
def authority_is_no_certificate(world: World) -> None:
    (world.home / "keys" / "authority.pem").write_text("hello")


@injects("address-wrong")
def address_is_a_url(world: World) -> None:
    world.server = "https://coordinator.test/"


@injects("no-server")
def not_enrolled(world: World) -> None:
    world.server = ""


# The machine
@injects("python")
def an_old_python(world: World) -> None:
    world.patch.setattr(sys, "version_info", (3, 9, 1, "final", 0))


@injects("package-missing")
def a_broken_package(world: World) -> None:
    (world.folder / "broken_package.py").write_text("raise OSError('libsomething.so: not found')")
    world.patch.setenv("PYTHONPATH", str(world.folder))
    world.imports = ImportCheck(modules=("broken_package",))


@injects("import-hangs")
def a_package_behind_a_scanner(world: World) -> None:
    (world.folder / "slow_package.py").write_text("import time; time.sleep(600)")
    world.patch.setenv("PYTHONPATH", str(world.folder))
    world.imports = ImportCheck(modules=("slow_package",), patience=0.5)


@injects("package-version")
def an_old_numpy(world: World) -> None:
    folder = world.folder / "numpy-1.2.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.2\n")
    world.patch.syspath_prepend(str(world.folder))


@injects("no-gpu")
def no_gpu(world: World) -> None:
    world.rename('device = "auto"', 'device = "cuda"')


@injects("memory")
def a_small_machine(world: World) -> None:
    (world.folder / "meminfo").write_text("MemTotal: 1000000 kB\nMemAvailable:  300000 kB\n")
    world.patch.setattr(machine, "MEMORY", world.folder / "meminfo")
    world.patch.setattr(machine, "_LEAST_MEMORY", 900 << 20)


@injects("memory-low")
def a_small_container(world: World) -> None:
    for name, text in (("memory.max", "1500000000"), ("memory.current", "600000000"), ("memory.stat", "anon 1\ninactive_file 100000000\n")):
        (world.folder / name).write_text(text)
    world.patch.setattr(machine, "GROUP", world.folder)
    world.patch.setattr(machine, "OWN_GROUP", world.folder / "cgroup")
    (world.folder / "cgroup").write_text("0::/\n")
    world.patch.setattr(machine, "_WANTED_MEMORY", 2048 << 20)


@injects("shared-memory")
def dockers_shared_memory(world: World) -> None:
    world.patch.setattr(machine, "SHARED", world.stack.enter_context(small_disk(world.folder / "shm", 65536)))
    world.patch.setattr(machine, "_WANTED_SHARED", 128 << 20)


@injects("few-files")
def few_descriptors(world: World) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    world.stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)


@injects("confinement-required")
def no_namespaces_where_they_are_required(world: World) -> None:
    world.rename('confinement = "preferred"', 'confinement = "required"')
    no_namespaces(world)


@injects("not-confined")
def no_namespaces(world: World) -> None:
    world.patch.setattr("fedrad_client.sandbox.probe", lambda: Confinement(network=False, files=True))
