"""What tests and plugins check themselves with: contracts, small models, originals and real answers to compare with."""
