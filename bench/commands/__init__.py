"""Command lines whose work is slow to import, so that a ``--help`` need not wait for it."""
