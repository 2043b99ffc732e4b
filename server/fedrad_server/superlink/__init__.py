"""Flower's SuperLink in a process of our own, behind a guard. `files` is readable without Flower."""
