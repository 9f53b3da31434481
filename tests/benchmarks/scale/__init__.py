"""What a driver takes, in searches of 100,000 evaluations, and how busy it keeps its workers: docs/scale.md."""
