"""The one base of errors that a user can mend."""


class UserError(Exception):
    """Its text says what is wrong, where, and what to do: the command line shows it in place of a traceback."""
