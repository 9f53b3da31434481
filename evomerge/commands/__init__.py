"""The commands whole, as functions: search, check, score, measure, reduce, add a parent."""
