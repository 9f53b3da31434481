"""The commands whole, as functions: search, rounds, check, score, measure, reduce, add a parent."""
