"""The commands of the command line; the line itself is in __main__.py, which waits for no torch."""
