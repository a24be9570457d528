"""OpenVINO as a runtime, and NNCF as a quantizer for it."""
