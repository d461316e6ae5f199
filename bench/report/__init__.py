"""Tables, figures and pages from stored records, by topic: speed, error, device.

Import `build` to make them all, `runs` to read records. Nothing in here imports torch.
"""
