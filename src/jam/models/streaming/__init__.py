"""Products of few rows, which read the weights from memory once: what a decode step on the CPU consists of."""

from jam.models.streaming.kernel import few_rows, load_kernel
from jam.models.streaming.linear import Int8Linear, StreamedLinear, product, stream

__all__ = ["Int8Linear", "StreamedLinear", "few_rows", "load_kernel", "product", "stream"]
