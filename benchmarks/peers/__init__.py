"""Everything that users would pick instead: environments, converters, engines, and the processes that run them."""
