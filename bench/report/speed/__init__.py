"""The report's topic "speed": figures, tables and maps of time and throughput.

Import `topic`; `derived` computes speed-ups and growth; `energy` is a topic of its own.
"""
