"""How much a model loses for each epsilon that a hospital might accept: `command.play` plays a sweep and writes its table and page."""
