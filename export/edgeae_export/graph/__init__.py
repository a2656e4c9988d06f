"""An ONNX graph: traced, simplified, asked about its layers, run; for the rewrites and int8."""
