"""The first thing that runs in a child that works: it confines itself, says in one byte what holds, and only then becomes the program."""

import argparse
import os
import runpy
import sys
from pathlib import Path

from fedrad_client.sandbox.confinement import LAYERS, UNCONFINED, confine
from fedrad_common import processes


def main() -> None:
    processes.tie()
    parser = argparse.ArgumentParser()
    parser.add_argument("--report", type=int, required=True)  # the descriptor for the byte, and for whatever the program answers
    parser.add_argument("--home", type=Path)
    parser.add_argument("--keep", type=Path, action="append", default=[])
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--required", action="store_true")
    parser.add_argument("program", nargs="*")
    asked = parser.parse_args()
    ours = [sys.prefix, sys.base_prefix, *sys.path, *os.environ.get("LD_LIBRARY_PATH", "").split(":")]  # code may lie in the home, too
    held = confine(asked.home, [*asked.keep, *(Path(path) for path in ours if path)], scratch=asked.scratch)
    if asked.scratch and LAYERS[1] not in held.layers:
        os.environ["TMPDIR"] = str(asked.scratch)
    if asked.required and not held.complete:
        os._exit(UNCONFINED)
    os.write(asked.report, bytes([held.to_byte()]))
    if asked.program:
        sys.argv = [asked.program[0], str(asked.report), *asked.program[1:]]
        runpy.run_module(asked.program[0], run_name="__main__", alter_sys=True)


main()
