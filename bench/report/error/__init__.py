"""The report's topic "error": figures, tables and maps of numerical error.

Import `topic`; `exactness` reads the files of the studies.
"""
