"""What the user gave: two torch modules, found, understood, fit to be exported; for the pipeline and `graph.trace`."""
