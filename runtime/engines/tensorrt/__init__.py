"""TensorRT and TensorRT-RTX: plans are built on the device, stored, found again and run."""
