"""How long the commands of a new hospital take, from `init` until its node is online.

`python simulations/benchmarks/federation/newcomer.py`. A coordinator runs already, and a folder of invented DICOM lies ready
(`fedrad-sim phantom`); what is timed is every command that hospital IT and the coordinator type, one after the other, without the time
that they take to read and to phone.
"""

import json
import shutil
import tempfile
import time
from pathlib import Path

from figures import Figure, arguments, conclude, load, of, say  # type: ignore[import-not-found] # beside this one, as are the next
from fleet import COORDINATOR, SITE, Fleet  # type: ignore[import-not-found]

PROTOCOL = Path(__file__).parents[3] / "configs" / "protocols" / "phantom.toml"
_HOSPITAL = "north"  # of the phantom
STEPS = ("init", "request", "admit", "doctor", "ingest", "preview", "approve", "start to online")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--times", type=int, default=None, help="as many hospitals, one after the other; 5, or 1 with --quick")
    parser.add_argument("--scale", type=float, default=1.0, help="of the phantom: how many patients")
    parser.add_argument("--declared-size", type=int, default=150)
    options = parser.parse_args()
    times, before = options.times or (1 if options.quick else 5), load()
    place = Path(tempfile.mkdtemp(prefix="fedrad-newcomer-", dir=options.folder))
    fleet = Fleet(place, ())
    try:
        fleet.programs.run("fedrad-sim", "phantom", "phantom", "--scale", 0.05 if options.quick else options.scale)
        shutil.copy(PROTOCOL, place / "protocol.toml")
        fleet.enrol()  # of nobody yet: a coordinator that runs
        measured = [newcomer(fleet, f"hospital-{number}", options.declared_size) for number in range(times)]
        images = len(list((place / "phantom" / _HOSPITAL / "dicom").rglob("*.dcm")))
    finally:
        fleet.programs.end()
        if not options.keep:
            shutil.rmtree(place, ignore_errors=True)
    totals = [sum(one.values()) for one in measured]
    figures = [of("a new hospital, from init to online, all commands", totals, "s", bar=30.0)]
    figures += [of(f"  {step}", [one[step] for one in measured], "s") for step in STEPS]
    figures.append(Figure("  images that it ingests", images, ""))
    conclude(figures, before=before, as_json=options.json)


def newcomer(fleet: Fleet, name: str, declared_size: int) -> dict[str, float]:
    """Seconds of each step. Raises BrokenError where a command fails."""
    programs, taken, begun = fleet.programs, dict[str, float](), time.monotonic()

    def done(step: str) -> None:
        nonlocal begun
        taken[step], begun = time.monotonic() - begun, time.monotonic()

    home, dicom = ("--home", name), f"phantom/{_HOSPITAL}/dicom"
    programs.run(SITE, "init", "--invitation", "invitation.json", "--name", name, "-n", declared_size, "--epsilon", 10, *home)
    done("init")
    words = json.loads(programs.run(SITE, "request", *home, "--json"))["words"]
    done("request")
    programs.run(COORDINATOR, "admit", "coordinator", f"{name}/enrolment/request.json", "--words", words)
    done("admit")
    findings = programs.run(SITE, "doctor", *home, fine=(0, 1))  # 1: something needs a person, such as data that is not there yet
    done("doctor")
    programs.run(SITE, "ingest", dicom, "--labels", f"phantom/{_HOSPITAL}/labels.csv", "--protocol", "protocol.toml", *home)
    done("ingest")
    programs.run(SITE, "preview", "protocol.toml", "-n", declared_size, *home)
    done("preview")
    programs.run(SITE, "approve", "protocol.toml", "-n", declared_size, *home)
    done("approve")
    programs.start(name, SITE, "start", "--home", name)
    programs.until(lambda: fleet.online(name), what=f"{name} is online")
    done("start to online")
    programs.stop(name)
    say("\n".join(line for line in findings.splitlines() if line.startswith(("FAIL", "fail", " ", "warn"))))
    say(f"{name}: {sum(taken.values()):.1f} s, load {load()}")
    return taken


if __name__ == "__main__":
    main()
