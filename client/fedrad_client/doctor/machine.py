"""Is this machine fit to train: Python, packages, GPU, memory, shared memory, open files, and a child that can be shut off?"""

import importlib.metadata
import os
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from fedrad_client.doctor.faults import Finding, fault, fine, skipped
from fedrad_client.doctor.subject import Subject

PYTHONS = ((3, 11), (3, 12))
SHARED = Path("/dev/shm")  # noqa: S108 - it is looked at, not written to
MEMORY = Path("/proc/meminfo")
OWN_GROUP = Path("/proc/self/cgroup")
GROUP = Path("/sys/fs/cgroup")  # cgroup v2: the service's or the container's own limits
_MB = 1 << 20
_LEAST_MEMORY, _WANTED_MEMORY, _WANTED_SHARED, _LEAST_FILES = 900 * _MB, 2048 * _MB, 128 * _MB, 1024


def python(subject: Subject) -> Iterator[Finding]:
    """The Python that runs this."""
    del subject
    major, minor, patch = sys.version_info[:3]
    text = f"{major}.{minor}.{patch}"
    yield fine(f"Python {text}") if (major, minor) in PYTHONS else fault("python", version=text)


def packages(subject: Subject) -> Iterator[Finding]:
    """Every package that fedrad names, in a version that it allows; torch, opacus and flwr imported in a process of their own."""
    found = [*_versions(), *(fault("package-missing", name=name) for name in subject.imported.failed)]
    if not subject.imported.in_time:
        found.append(fault("import-hangs", seconds=subject.imports.patience))
    yield from found or [fine("complete, and torch, opacus and flwr can be imported")]


def gpu(subject: Subject) -> Iterator[Finding]:
    """A GPU, where site.toml asks for one."""
    wanted = subject.settings is not None and subject.settings.resources.device == "cuda"
    if subject.imported.gpu is None:
        yield skipped("torch did not say")
    elif wanted and not subject.imported.gpu:
        yield fault("no-gpu")
    else:
        yield fine("there is one" if subject.imported.gpu else "none; none is asked for")


def memory(subject: Subject) -> Iterator[Finding]:
    """Memory that is left, within the limits of the service or the container."""
    del subject
    free = min(_available(), _left_of_group())
    if free < _LEAST_MEMORY:
        yield fault("memory", free=free // _MB, needed=_LEAST_MEMORY // _MB)
    elif free < _WANTED_MEMORY:
        yield fault("memory-low", free=free // _MB, needed=_WANTED_MEMORY // _MB)
    else:
        yield fine(f"{free // _MB} MB left")


def shared_memory(subject: Subject) -> Iterator[Finding]:
    """Shared memory, through which torch's processes hand tensors over."""
    del subject
    try:
        room = os.statvfs(SHARED)
        size = room.f_blocks * room.f_frsize
    except OSError:
        size = 0
    yield fine(f"{size // _MB} MB") if size >= _WANTED_SHARED else fault("shared-memory", size=size // _MB, needed=_WANTED_SHARED // _MB)


def open_files(subject: Subject) -> Iterator[Finding]:
    """How many files this account may hold open."""
    del subject
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = limit == resource.RLIM_INFINITY or limit >= _LEAST_FILES
    yield fine(f"{limit} may be open") if enough else fault("few-files", limit=limit, needed=_LEAST_FILES)


def confinement(subject: Subject) -> Iterator[Finding]:
    """Can the training process be shut off from network and files here?"""
    from fedrad_client import sandbox

    found = sandbox.probe()
    required = subject.settings is not None and subject.settings.resources.confinement == "required"
    if found.complete:
        yield fine(f"shut off from network and files: {found.how}")
    else:
        yield fault("confinement-required" if required else "not-confined", what=found.open_to)


def _versions() -> Iterator[Finding]:
    for requirement in importlib.metadata.requires("fedrad") or ():
        named = re.fullmatch(r"([\w.-]+)(?:\[[\w,.-]+\])?\s*([<>=!~.,\d\s]*)", requirement)
        if named is None:  # of an extra, or for another Python
            continue
        name, wanted = named[1], named[2].replace(" ", "")
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield fault("package-missing", name=name)
            continue
        if not all(_allows(bound, version) for bound in filter(None, wanted.split(","))):
            yield fault("package-version", name=name, version=version, wanted=wanted)


def _allows(bound: str, version: str) -> bool:
    found = re.fullmatch(r"(>=|<=|==|<|>|!=)([\d.]+)", bound)
    if found is None:
        return True  # a form that fedrad's own list does not use
    have, want = _numbers(version), _numbers(found[2])
    width = max(len(have), len(want))
    have, want = [*have, *[0] * (width - len(have))], [*want, *[0] * (width - len(want))]
    return {">=": have >= want, "<=": have <= want, "==": have == want, "<": have < want, ">": have > want, "!=": have != want}[found[1]]


def _numbers(version: str) -> list[int]:
    """Of the release part alone: 2.13.0+cpu is 2.13.0."""
    return [int(part) for part in re.match(r"[\d.]*", version)[0].strip(".").split(".") if part]  # type: ignore[index] # matches always


def _available() -> int:
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", MEMORY.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else sys.maxsize


def _left_of_group() -> int:
    """What is left of the smallest limit of our control groups; caches that the kernel would give up count as free."""
    left = sys.maxsize
    try:
        below = OWN_GROUP.read_text().partition("0::/")[2].strip()
    except OSError:
        return left
    for folder in [GROUP / below, *(GROUP / below).parents]:
        with_limit = folder / "memory.max"
        if not with_limit.is_relative_to(GROUP) or not with_limit.is_file() or (most := with_limit.read_text().strip()) == "max":
            continue
        used = int((folder / "memory.current").read_text())
        idle = re.search(r"^inactive_file (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
        left = min(left, int(most) - used + (int(idle[1]) if idle else 0))
    return left
