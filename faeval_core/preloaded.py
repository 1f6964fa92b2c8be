"""What the process that kernels are forked from imports, for all of them."""

import pandas as pd

from .kernels import imported

imported()
# as a kernel has it; pandas takes a process that is none for a terminal, and cuts tables to it
pd.set_option("display.max_columns", 20)
