"""What lies on disk about searches: a run's journal and responses, what is read off them, and looks at report items."""
