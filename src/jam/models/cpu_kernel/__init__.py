"""Products of few rows, which read the weights from memory once: what a decode step on the CPU consists of."""

from jam.models.cpu_kernel.kernel import few_rows, load_kernel
from jam.models.cpu_kernel.linear import Int8Linear, KernelLinear, product, use_kernel

__all__ = ["Int8Linear", "KernelLinear", "few_rows", "load_kernel", "product", "use_kernel"]
