"""The Triton kernels of tstn. Imports neither torch nor tstn."""

from tstn_kernels.backward import sample_backward_kernel
from tstn_kernels.finish import finish_backward_kernel
from tstn_kernels.fixed_point import peak_kernel
from tstn_kernels.forward import sample_forward_kernel
from tstn_kernels.gather import gather_backward_kernel
from tstn_kernels.maps import MAPS, MATRICES
from tstn_kernels.spline import spline_product_kernel

__all__ = [
    "MAPS",
    "MATRICES",
    "finish_backward_kernel",
    "gather_backward_kernel",
    "peak_kernel",
    "sample_backward_kernel",
    "sample_forward_kernel",
    "spline_product_kernel",
]
