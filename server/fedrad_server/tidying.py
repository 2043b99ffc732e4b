"""A short process after each start of the server: Flower's nodes become those of the roster, which may have changed meanwhile.

Started by the supervisor, which itself stays small and never waits for the server: `python -m fedrad_server.tidying HOME`.
"""

import sys
from pathlib import Path

from fedrad_common import processes
from fedrad_common.errors import FedradError
from fedrad_server.admission import bring_into_line
from fedrad_server.home import Home
from fedrad_server.log import say


def tidy(home: Home) -> None:
    """Raises FedradError when the server is away or says no; doing it again is harmless."""
    from fedrad_server.control import Control

    with Control.open(home.superlink) as control:
        registered, removed = bring_into_line(home, control)
    for site in registered:
        say(f"site {site}: its node may connect")
    for site in removed:
        say(f"site {site}: its node may not connect any more")


def main() -> None:
    processes.tie()
    try:
        tidy(Home.open(Path(sys.argv[1])))
    except FedradError as error:
        say(f"tidying: error: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
