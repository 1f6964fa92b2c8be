"""The settings of a run: which there are, what values they take, and what ids are reckoned
against.
"""
