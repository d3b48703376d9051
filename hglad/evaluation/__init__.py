"""Distilled sets and what they are worth: training, protocols, scores, exports."""
