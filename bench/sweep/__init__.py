"""How many cases are measured: what is left to do, in which order, in worker processes.

Import `sweep` to plan and run; `worker` is the process that measures.
"""
