"""From answers to decisions: estimates, tests, verdicts, the final table. No input or output."""
