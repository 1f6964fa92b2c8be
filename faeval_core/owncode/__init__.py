"""Digests of code that is not faeval's own: a rule is named by what it does, not by its name.

A digest covers the functions of a class over its whole MRO, up to faeval's own classes; the
globals, helpers, closures and defaults that they use, as they stand, and those of their helpers in
turn; and the class attributes. Of an installed package it tells name and version; of faeval's own
classes the name and their `version`; of torch, numpy and the standard library the name alone, since
a rule of faeval's own, too, keeps its id under another version of these (a record's provenance
names them).

Functions are told by their syntax tree, so that comments, layout, docstrings and annotations do not
count, and any version of Python gives the same digest. The source must be that of the code in
memory (a notebook's cell is found as a file is); where it is gone, or was edited since, the
bytecode is told.
"""

from .digests import Walk, code_digest, faevals_tables, is_own
from .outlines import outline
from .packing import packed, unpacked

__all__ = ["Walk", "code_digest", "faevals_tables", "is_own", "outline", "packed", "unpacked"]
