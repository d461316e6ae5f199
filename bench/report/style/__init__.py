"""How figures and tables look, whatever they show: colours, sheets, number formats.

Import `sheet`, `plots` and `maps` to draw, `typeset` to write a table; no topic is imported here.
"""
