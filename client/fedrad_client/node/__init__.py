"""A hospital's node: connection, executor, time slots. Transport only; what a site decides is in `answer`."""
