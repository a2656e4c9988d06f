"""A stranger's graph, read and bounded before ONNX Runtime sees it; for the bundle's reader and the exporter."""
