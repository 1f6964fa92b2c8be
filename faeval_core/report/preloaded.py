"""What the process that kernels are forked from imports and sets, for all of them."""

import pandas as pd

from ..training.execution import own_process
from .kernels import imported

imported()
own_process()
# as a kernel has it; pandas takes a process that is none for a terminal, and cuts tables to it
pd.set_option("display.max_columns", 20)
