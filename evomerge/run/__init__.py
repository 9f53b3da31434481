"""One run: read and checked (spec, preflight), then one loop that starts and resumes it, scores and ends it."""
