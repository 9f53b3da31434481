"""The search: what it asks next, what it remembers. No files, clocks, threads or Ray."""
