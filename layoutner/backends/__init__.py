"""What computes the network of an exported model: torch, or ONNX Runtime."""
