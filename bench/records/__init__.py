"""What was measured: records, the files that hold them, the machine and code they come from.

Import `store` to read and write records. Nothing here imports torch unless a GPU is asked about.
"""
