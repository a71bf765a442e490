"""A network as files for other programs: Python code, ONNX, a program of ``torch.export``. Knows torch alone."""
