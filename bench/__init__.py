"""The benchmark: how fast and how exact the kernels and other implementations are.

Its rooms, each importing only rooms before it: cases, records, providers, measure, error, sweep,
compiler, gpu, report, cli. From `bench` itself nothing is imported.
"""
