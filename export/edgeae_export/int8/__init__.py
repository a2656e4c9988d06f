"""A float32 graph into one of 8 bits (QDQ): where, with which ranges, how weights are rounded; for the compiler."""
