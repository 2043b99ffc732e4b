"""A process without network, without the site's keys and ledger, and with nothing to write to; and what of this holds on a machine."""

from fedrad_client.sandbox.confinement import LAYERS, Confinement, confine
from fedrad_client.sandbox.launch import Launched, launch, probe

__all__ = ["LAYERS", "Confinement", "Launched", "confine", "launch", "probe"]
