"""Matrix products of few rows that read the weights from memory once, for decode steps on the CPU."""

from jam.models.cpu_kernel.kernel import few_rows, load_kernel
from jam.models.cpu_kernel.linear import (
    Int8Linear,
    KernelLinear,
    kernel_in_use,
    kernel_layers,
    product,
    product_of_head,
    using_kernel,
)

__all__ = [
    "Int8Linear",
    "KernelLinear",
    "few_rows",
    "kernel_in_use",
    "kernel_layers",
    "load_kernel",
    "product",
    "product_of_head",
    "using_kernel",
]
