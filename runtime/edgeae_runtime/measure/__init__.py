"""Time measured so that a comparison holds: `bench`, `compare`, `tune`; for the commands and the benchmarks."""
