"""What optimizers of several objectives share: fronts, and the children of two genomes."""
