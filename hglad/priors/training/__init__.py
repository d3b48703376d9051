"""Training of generators, and how good they are."""
