"""`python -m fedrad_server.superlink HOME`: the coordinator's server as a child of the supervisor."""

import sys
from pathlib import Path

from fedrad_common import processes
from fedrad_common.cli import fail
from fedrad_common.errors import FedradError
from fedrad_server.coordinator_toml import load_settings


def main() -> None:
    processes.tie()
    processes.give_back()
    home = Path(sys.argv[1])
    try:
        settings = load_settings(home)
        from fedrad_server.superlink.serving import run_superlink

        run_superlink(home, host=settings.listen_host, port=settings.listen_port)
    except FedradError as error:
        fail("server", str(error), error.hint)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
