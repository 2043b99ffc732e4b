"""How long a test waits for real processes before it says that something hangs: one figure, for a loaded machine with two cores."""

PATIENCE = 90.0  # seconds
