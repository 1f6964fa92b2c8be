"""What the process that kernels are forked from imports and sets, for all of them."""

from ..training.execution import own_process
from .kernels import imported

imported()
own_process()
