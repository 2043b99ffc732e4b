"""How much a model loses for each epsilon that a hospital might accept: `sweep(name, out, …)` plays, `page` shows and explains."""
