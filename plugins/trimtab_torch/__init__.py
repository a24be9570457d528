"""Float models on PyTorch: fitting, channel pruning, distillation, and the export that serves them."""
