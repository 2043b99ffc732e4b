"""Switches off what our dependencies would send or install on their own. Imported before Flower, which reads some of it at import."""

import os

SWITCHES = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's coming default; without it each worker warns
}
_LOOPBACK = "127.0.0.1,localhost"

os.environ.update(SWITCHES)
for _name in ("NO_PROXY", "no_proxy"):  # a hospital's proxy has no business between two processes of one machine
    _others = os.environ.get(_name, "")
    if _LOOPBACK not in _others:
        os.environ[_name] = f"{_LOOPBACK},{_others}".rstrip(",")
