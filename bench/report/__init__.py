"""Everything people look at, out of stored records. No file in here imports torch."""
