"""Notebooks executed, pages built."""
