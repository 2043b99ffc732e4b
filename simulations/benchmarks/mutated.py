"""10,000 damaged files and those made to end their reader, through the real reader processes: `python simulations/benchmarks/mutated.py`.

No file may end or hang the node, take more than 2 s or more than 700 MB; none may be an unforeseen fault. One file is read for single
images, the next for volumes, whatever its modality. Control: pydicom alone, on a bomb and on a pipe. Exit status 1 where one differs.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostile_files import FILES, PLACES, write_all  # type: ignore[import-not-found] # beside this one
from mutations import files_of, mutated  # type: ignore[import-not-found]

from fedrad_client.intake.answers import Processing, decode
from fedrad_client.intake.deid.rules import PseudonymKeys
from fedrad_client.intake.pixels.image import Geometry
from fedrad_client.intake.process import Recipe
from fedrad_client.intake.reading import desk
from fedrad_common.profiles import profile

SECONDS, MEGABYTES = 2.0, 700.0  # a file
BATCH = 500  # files on disk at a time
MODALITIES = ("CR", "DX", "MR", "CT", "MG", "NM", "US", "OT", "RG", "XA", "PT", "SC", "SEG", "SM")
# What a reader does, as text, for it has not this file: the outcome, and what it took of the processor and of memory so far.
WORK = """lambda work: lambda path: (lambda before, said: (
    said[0] | {"seconds": __import__("time").process_time() - before,
               "peak": int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024}, said[1])
)(__import__("time").process_time(), work(path))"""
CONTROL = """import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
from pydicom import dcmread
dcmread(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


class Text:
    """A function by its source, which becomes one in the process that it is sent to."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return eval, (self.source,)

    def __call__(self, *_: Any) -> Any:
        raise AssertionError


class Measured:
    """`Processing`, and what it took."""

    def __init__(self, recipe: Recipe) -> None:
        self.work = Processing(recipe)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Processing]]:
        return Text(WORK), (self.work,)

    def __call__(self, path: Path) -> Any:
        raise AssertionError


@dataclass
class Found:
    """What the files of one kind came to."""

    files: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)  # workers, by the code of how
    faults: list[str] = field(default_factory=list)  # of the node itself
    seconds: float = 0.0  # the worst of a file, by the clock
    megabytes: float = 0.0  # the worst of a worker
    by_name: dict[str, str] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return not self.faults and not self.codes["internal"] and self.seconds <= SECONDS and self.megabytes <= MEGABYTES

    def facts(self) -> dict[str, Any]:
        return {
            "files": self.files, "good": self.good, "faults": self.faults, "worst_seconds": round(self.seconds, 2),
            "worst_megabytes": round(self.megabytes), "workers_ended": dict(self.ended), "codes": dict(self.codes.most_common()),
        }  # fmt: skip


def recipes() -> tuple[Recipe, Recipe]:
    """For single images, and for volumes; of any modality, so that every decoder has its turn."""
    mr = profile("mr").model_copy(update={"modalities": MODALITIES})
    keys = PseudonymKeys.from_secret(bytes(32))
    return Recipe(Geometry(mr, 32, 32), keys, 0.2), Recipe(Geometry(mr, 32, 32, 4, (2.0, 2.0, 2.0)), keys, 0.2)


def read(files: dict[str, Path], recipe: Recipe, found: Found) -> None:
    """Adds what came of them, in new readers. The time of a file that seems slow is taken again: this machine may do other things."""
    desk.close_idle()
    work, began = Measured(recipe), time.monotonic()
    try:
        for (name, path), answer in zip(files.items(), desk.read_all(list(files.values()), work), strict=True):
            took, began = time.monotonic() - began, time.monotonic()
            found.files += 1
            _note(name, answer, found)
            if took > SECONDS / 2:
                took = min(took, *(_alone(path, work) for _ in range(2)))
                began = time.monotonic()
            if took > found.seconds:
                found.seconds = took
    except Exception as error:
        found.faults.append(f"{type(error).__name__}: {error}")


def _note(name: str, answer: desk.Answer, found: Found) -> None:
    code = answer.code
    if code is None:
        decode(answer.head, answer.body)
        code = answer.head["code"]
        found.megabytes = max(found.megabytes, answer.head["peak"])
    else:
        found.ended[code] += 1
    found.codes[code or "taken in"] += 1
    found.by_name[name] = code or ""


def _alone(path: Path, work: Measured) -> float:
    began = time.monotonic()
    list(desk.read_all([path], work))
    return time.monotonic() - began


def read_mutated(count: int, seeds: list[bytes], *, first: int = 0) -> Found:
    found, both = Found(), recipes()
    for start in range(first, first + count, BATCH):
        with tempfile.TemporaryDirectory(prefix="fedrad-mutated-") as folder:
            paths = {str(number): Path(folder) / str(number) for number in range(start, min(start + BATCH, first + count))}
            for name, path in paths.items():
                path.write_bytes(mutated(seeds, int(name)))
            for turn, recipe in enumerate(both):
                read({name: path for name, path in paths.items() if int(name) % 2 == turn}, recipe, found)
    return found


def read_hostile() -> Found:
    """Those made to end their reader, each with its code. The files are read as the profile of radiographs wants them."""
    found = Found()
    with tempfile.TemporaryDirectory(prefix="fedrad-hostile-") as folder:
        read(write_all(Path(folder)), Recipe(Geometry(profile("xr"), 32, 32), PseudonymKeys.from_secret(bytes(32)), 0.2), found)
    wanted = {name: code or "" for name, (code, _) in FILES.items()} | dict.fromkeys(PLACES, "not-a-file")
    found.faults += [f"{name}: {found.by_name.get(name)}, not {code}" for name, code in wanted.items() if found.by_name.get(name) != code]
    return found


def worst_of_the_ended() -> float:
    """Megabytes that any worker took which ended before it could say so."""
    desk.close_idle()
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def pydicom_alone() -> dict[str, Any]:
    """Megabytes for a file of 0.6 MB, and whether it waits for a pipe: without these dangers the bars would prove nothing."""
    with tempfile.TemporaryDirectory(prefix="fedrad-hostile-") as folder:
        paths = write_all(Path(folder))
        bomb = paths["deflates to 600 MB"]
        done = subprocess.run([sys.executable, "-c", CONTROL, bomb], capture_output=True, text=True, check=False)
        try:
            subprocess.run([sys.executable, "-c", CONTROL, paths["pipe"]], capture_output=True, timeout=5, check=False)
        except subprocess.TimeoutExpired:
            return {"bytes": bomb.stat().st_size, "megabytes": round(float(done.stdout or "inf")), "waits_for_a_pipe": True}
    return {"bytes": 0, "megabytes": round(float(done.stdout or "inf")), "waits_for_a_pipe": False}


def lines(facts: dict[str, Any]) -> Iterator[str]:
    for kind in ("mutated", "hostile"):
        of = facts[kind]
        yield (
            f"{of['files']} {kind} files: {len(of['faults'])} faults of the node, at worst {of['worst_seconds']} s and "
            f"{of['worst_megabytes']} MB; {sum(of['workers_ended'].values())} ended their worker {of['workers_ended'] or ''}"
        )
        yield "  " + ", ".join(f"{count} {code}" for code, count in of["codes"].items())
        yield from (f"  FAULT: {fault}" for fault in of["faults"])
    alone = facts["pydicom_alone"]
    waits = "waits" if alone["waits_for_a_pipe"] else "does not wait"
    yield f"of the workers that ended, none took more than {facts['megabytes_of_the_ended']} MB"
    yield f"pydicom alone: {alone['megabytes']} MB for a file of {alone['bytes']} bytes; {waits} for a pipe"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first: another gives other files")
    parser.add_argument("--zoo", type=Path, help="a folder of DICOM files to damage, besides the small ones that are written here")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    hostile = read_hostile()
    changed = read_mutated(options.files, files_of(options.zoo), first=options.first)
    ended, alone = worst_of_the_ended(), pydicom_alone()
    facts = {"mutated": changed.facts(), "hostile": hostile.facts(), "megabytes_of_the_ended": round(ended), "pydicom_alone": alone}
    print(json.dumps(facts) if options.json else "\n".join(lines(facts)))
    good = changed.good and hostile.good and ended <= MEGABYTES
    return int(not good or alone["megabytes"] <= MEGABYTES or not alone["waits_for_a_pipe"])


if __name__ == "__main__":
    sys.exit(main())
