"""How figures and tables look, whatever they show: colours, sheets, number formats.

Import `plots` to draw and `typeset` to write a table; no topic is imported here.
"""
