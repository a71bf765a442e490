"""Export of a network for other programs: Python code, ONNX, a program of ``torch.export``. Knows torch alone."""

from nni_cream.export.code import network_code
from nni_cream.export.formats import FORMATS, check_exportable, check_formats, write_formats

__all__ = ["FORMATS", "check_exportable", "check_formats", "network_code", "write_formats"]
