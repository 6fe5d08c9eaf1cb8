"""What computes an embedding: JAX, ONNX Runtime, OpenVINO or TensorRT."""
