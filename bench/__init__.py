"""How well it is computed: what is measured, who is measured, the measuring, and its records."""
