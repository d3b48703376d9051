"""To hand results on: distilled sets with a card, rows of results, everything about a profile in one file."""
