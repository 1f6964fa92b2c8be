"""What everything else stands on: files, checks of what a user gives, random streams, the
environment and the terminal.
"""
