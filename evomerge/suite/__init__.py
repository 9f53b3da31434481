"""What is wanted: the fitness file, its objectives, its items and their splits."""
