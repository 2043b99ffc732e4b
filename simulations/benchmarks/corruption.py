"""Damages a ledger and its mark 5,000 times and opens it again: `python simulations/benchmarks/corruption.py`.

Bits are flipped, files cut, lines and sectors swapped, doubled, lost or zeroed, older copies put back. A damage is *accepted* when the
ledger opens with less spent than was acknowledged, or with an entry that is another one: the bar is 0. It is *harmless* when every
acknowledged entry is still there (an older mark beside the newest log). Both files from the same older moment are a ledger that once was
true; that only a witness outside notices (privacy.md, rule 14), so it is counted on a line of its own.

Two controls read the same damaged files: one believes whatever whole lines it finds (no mark), one does not compare hashes.
"""

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from fedrad_client.config import Budget
from fedrad_client.privacy.ledger import Ledger
from fedrad_client.site import opening
from fedrad_common.chain_format import Entry, entry_at
from fedrad_common.errors import FedradError

Files = tuple[bytes, bytes]  # log, mark
Damage = Callable[[random.Random, Files, list[Files]], Files]
Reader = Callable[[Path], list[Entry]]
SECTOR, PAGE = 512, 4096
COST = 0.5  # of each entry


def flip(draw: random.Random, files: Files, older: list[Files]) -> Files:
    """One to eight bits of one file."""
    content = bytearray(files[which := draw.randrange(2)])
    for _ in range(draw.randint(1, 8)):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return _with(files, which, bytes(content))


def cut(draw: random.Random, files: Files, older: list[Files]) -> Files:
    content = files[which := draw.randrange(2)]
    return _with(files, which, content[: draw.randrange(len(content))])


def swap_lines(draw: random.Random, files: Files, older: list[Files]) -> Files:
    return _lines(files, lambda lines: _swapped(draw, lines))


def double_line(draw: random.Random, files: Files, older: list[Files]) -> Files:
    return _lines(files, lambda lines: [*lines[: (at := draw.randrange(len(lines)))], lines[at], *lines[at:]])


def lose_line(draw: random.Random, files: Files, older: list[Files]) -> Files:
    return _lines(files, lambda lines: [*lines[: (at := draw.randrange(len(lines)))], *lines[at + 1 :]])


def swap_sectors(draw: random.Random, files: Files, older: list[Files]) -> Files:
    return b"".join(_swapped(draw, _sectors(files[0], SECTOR))), files[1]


def copy_sector(draw: random.Random, files: Files, older: list[Files]) -> Files:
    """A write that went to the wrong place."""
    sectors = _sectors(files[0], SECTOR)
    sectors[draw.randrange(len(sectors))] = draw.choice(sectors)
    return b"".join(sectors), files[1]


def zero_sector(draw: random.Random, files: Files, older: list[Files]) -> Files:
    return _zeroed(draw, files, SECTOR)


def zero_page(draw: random.Random, files: Files, older: list[Files]) -> Files:
    return _zeroed(draw, files, PAGE)


def old_sector(draw: random.Random, files: Files, older: list[Files]) -> Files:
    """A write that never reached the disk: one sector is as it was at an older moment, zeros where the log did not reach."""
    now, then = _sectors(files[0], SECTOR), _sectors(draw.choice(older)[0], SECTOR)
    at = draw.randrange(len(then) - 1, len(now))
    now[at] = (then[at] if at < len(then) else b"").ljust(len(now[at]), b"\0")[: len(now[at])]
    return b"".join(now), files[1]


def old_log(draw: random.Random, files: Files, older: list[Files]) -> Files:
    return draw.choice(older)[0], files[1]


def old_mark(draw: random.Random, files: Files, older: list[Files]) -> Files:
    return files[0], draw.choice(older)[1]


def both_old(draw: random.Random, files: Files, older: list[Files]) -> Files:
    return draw.choice(older)


DAMAGES: tuple[Damage, ...] = (
    flip, cut, swap_lines, double_line, lose_line, swap_sectors, copy_sector, zero_sector, zero_page, old_sector, old_log, old_mark,
)  # fmt: skip


def _with(files: Files, which: int, content: bytes) -> Files:
    return (content, files[1]) if which == 0 else (files[0], content)


def _lines(files: Files, change: Callable[[list[bytes]], list[bytes]]) -> Files:
    return b"".join(change(files[0].splitlines(keepends=True))), files[1]


def _sectors(content: bytes, size: int) -> list[bytes]:
    return [content[at : at + size] for at in range(0, len(content), size)]


def _swapped(draw: random.Random, parts: list[bytes]) -> list[bytes]:
    one, other = draw.sample(range(len(parts)), 2)
    parts[one], parts[other] = parts[other], parts[one]
    return parts


def _zeroed(draw: random.Random, files: Files, size: int) -> Files:
    parts = _sectors(files[which := draw.randrange(2)], size)
    at = draw.randrange(len(parts))
    parts[at] = bytes(len(parts[at]))
    return _with(files, which, b"".join(parts))


def opened(path: Path) -> list[Entry]:
    """What fedrad does."""
    ledger = Ledger.open(path)
    ledger.close()
    return ledger.chain.entries


def without_mark(path: Path) -> list[Entry]:
    content, entries, position = path.read_bytes(), list[Entry](), 0
    while (found := entry_at(position, content, before=entries, kind="ledger")) is not None:
        entry, position = found
        entries.append(entry)
    return entries


def without_hashes(path: Path) -> list[Entry]:
    entries = []
    for number, line in enumerate(path.read_bytes().splitlines()):
        try:
            value = json.loads(line[74:])
            entries.append(Entry(number, value["type"], value["at"], value["body"], line[9:73].decode("ascii")))
        except (ValueError, KeyError, TypeError):
            raise FedradError("not a line") from None
    return entries


READERS: dict[str, Reader] = {"fedrad": opened, "control: no mark": without_mark, "control: no hashes": without_hashes}


def moments(path: Path, *, entries: int) -> list[Files]:
    """Both files after each entry of a ledger like a site's."""
    mark = path.with_name(path.name + ".mark")
    charge = {"cost": COST, "validation_cost": 0.0, "numeric_delta": 0.0}
    ledger = Ledger.create(path, opening("north", Budget(), identity="0" * 64))
    found = [(path.read_bytes(), mark.read_bytes())]
    for number in range(entries):
        kind = "run" if number % 6 == 0 else "answer"
        ledger.chain.append(
            kind, {**charge, "run": f"run-{number // 6:08d}", "kind": "train", "round": number % 6, "question": f"{number:064x}"}
        )
        found.append((path.read_bytes(), mark.read_bytes()))
    ledger.close()
    return found


def outcome(read: Reader, path: Path, acknowledged: list[Entry]) -> str:
    try:
        entries = read(path)
    except FedradError:
        return "refused"
    if entries[: len(acknowledged)] == acknowledged:
        return "harmless"
    return "accepted, less spent" if _spent(entries) < _spent(acknowledged) else "accepted, other entries"


def _spent(entries: list[Entry]) -> int:
    """In entries: each costs the same, and one whose cost cannot be read costs nothing."""
    return sum(entry.body.get("cost") == COST for entry in entries)


def count(folder: Path, damages: tuple[Damage, ...], n: int, *, seed: int, entries: int = 40) -> dict[str, Counter[tuple[str, str]]]:
    """Outcomes by reader, as a count of (damage, outcome). An exception other than ours ends the benchmark: that is a bug too."""
    path = folder / "ledger.chain"
    mark = folder / "ledger.chain.mark"
    *older, newest = moments(path, entries=entries)
    acknowledged, draw = opened(path), random.Random(seed)
    found: dict[str, Counter[tuple[str, str]]] = {name: Counter() for name in READERS}
    for number in range(n):
        damage = damages[number % len(damages)]
        while (damaged := damage(draw, newest, older)) == newest:
            pass
        for name, read in READERS.items():
            path.write_bytes(damaged[0])
            mark.write_bytes(damaged[1])
            found[name][damage.__name__, outcome(read, path, acknowledged)] += 1
    return found


def accepted(found: Counter[tuple[str, str]]) -> int:
    return sum(times for (_, how), times in found.items() if how.startswith("accepted"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--damages", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="a tmpfs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fedrad-corruption-", dir=options.folder) as name:
        folder = Path(name)
        (folder / "one").mkdir()
        (folder / "two").mkdir()
        found = count(folder / "one", DAMAGES, options.damages, seed=options.seed)
        only_a_witness = count(folder / "two", (both_old,), options.damages // 10, seed=options.seed)["fedrad"]
    for (damage, how), times in sorted(found["fedrad"].items()):
        print(f"  {damage:14} {how:24} {times:6}")
    for reader, outcomes in found.items():
        print(f"{reader}: {accepted(outcomes)} of {options.damages} accepted")
    print(f"both files from one older moment, for a witness to notice: {accepted(only_a_witness)} of {only_a_witness.total()} accepted")
    sys.exit(accepted(found["fedrad"]) > 0)


if __name__ == "__main__":
    main()
