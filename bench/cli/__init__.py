"""The command line: one file for each command, which parses arguments and prints.

Nothing but `bench.__main__` and the tests import from here.
"""
