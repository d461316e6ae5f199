"""How many cases are measured: what is left to do, in which order, in worker processes.

Import `sweep` to plan and run, `pool` for other work in processes; `worker` is what measures.
"""
