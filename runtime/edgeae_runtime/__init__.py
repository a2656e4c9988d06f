"""Run autoencoder bundles with numpy and ONNX Runtime."""
