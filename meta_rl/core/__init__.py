"""What every room speaks: data types, protocols, distributions, randomness, errors and checks."""
