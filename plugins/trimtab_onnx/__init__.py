"""ONNX Runtime: loads exported models for a target, and quantizes them after training."""
