"""A user's own model, named on the command line, and its weights; for `edgeae export`."""
