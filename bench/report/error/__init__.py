"""The report's topic "error": figures, tables and maps of numerical error.

Import `topic`; `exactness` and `training` read files beside the records.
"""
