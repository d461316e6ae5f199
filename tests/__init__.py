"""Tests, in folders named after the room they test, and examples of use.

Nothing outside imports from here; of these folders, tests import only `helpers`.
"""
