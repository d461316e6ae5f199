"""Tests of bench's cases, records, providers, measure, error, sweep and compiler.

Nothing is imported from here.
"""
