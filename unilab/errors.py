"""The one base of errors that a user can mend."""


class UserError(Exception):
    """An error whose text says what is wrong, where, and what to do: the command line shows it without a traceback."""
