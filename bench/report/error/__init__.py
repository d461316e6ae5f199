"""The report's topic "error": figures, tables and heatmaps of numerical error.

Import `figures`, `tables` and `maps`; `exactness` and `training` read files beside the records.
"""
