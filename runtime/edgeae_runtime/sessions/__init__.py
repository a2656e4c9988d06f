"""ONNX Runtime itself: its providers, their libraries, what a process does to a session; for the library above it."""
