"""What numbers of a sample allow to say: intervals and tests."""
