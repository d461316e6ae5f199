"""Tests of bench/report, from invented records.

Nothing is imported from here.
"""
