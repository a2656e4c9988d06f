"""Instructions that one call of a graph executes on emulated 64-bit ARM processors: counted, never timed."""
