"""The report's topic "error": figures, tables and maps of numerical error.

Import `topic`; `exactness` reads files beside the records.
"""
