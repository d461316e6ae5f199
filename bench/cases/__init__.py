"""What is measured: cells, cases, presets, regimes, the tensors of a case, its roofline.

Import `cases` for cells and cases, `presets` for lists of them, `problem` for a case's tensors.
"""
