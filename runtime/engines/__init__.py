"""Inference engines behind one protocol: ONNX Runtime, OpenVINO, TensorRT and TensorRT-RTX."""
