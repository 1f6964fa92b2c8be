"""What the process that kernels are forked from imports, for all of them."""

from .kernels import imported

imported()
