"""Trained models for other programs: ONNX, StableHLO, safetensors, TensorRT engines, release
folders.
"""
