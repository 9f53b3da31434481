"""What the command line offers: a search, and what is none."""
