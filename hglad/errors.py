"""Errors that a user can mend: one line that names the value, what was expected and what to do."""


class HgladError(Exception):
    """Bad input or a run that cannot go on; the command line prints its text without a traceback."""
