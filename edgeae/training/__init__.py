"""Training: the loop, its settings, its processes, and going on with a run; for `edgeae train` and `edgeae.train`."""
