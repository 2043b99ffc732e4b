"""The coordinator: rounds, aggregation, the run directory and its report."""
