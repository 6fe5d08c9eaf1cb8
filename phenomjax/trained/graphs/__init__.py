"""A trained encoder as one graph: for ONNX Runtime, OpenVINO and TensorRT, exported or run here."""
