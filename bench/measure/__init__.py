"""How one provider is measured on one case: its errors against float64 first, then its time.

Import `runner` to measure, `metrics` for errors, `statistics` for samples (without torch).
"""
