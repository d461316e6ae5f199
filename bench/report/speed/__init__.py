"""The report's topic "speed": figures, tables and heatmaps of time and throughput.

Import `figures`, `tables` and `maps`.
"""
