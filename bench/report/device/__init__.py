"""The report's topic "device": what the compiler, the microbenchmarks and the checks found.

Import `compiler`, `floor` and `checks`; each makes tables, the first also heatmaps.
"""
