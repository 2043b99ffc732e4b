"""What both sides must agree on bit for bit. Imports no other fedrad package."""

__version__ = "0.1.0"
