"""All that people read, made from a run's record."""
