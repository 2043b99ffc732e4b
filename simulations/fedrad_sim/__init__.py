"""Many sites on one machine, running the same code as the real ones."""
