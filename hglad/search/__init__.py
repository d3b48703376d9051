"""The one loop, its stages and its state."""
