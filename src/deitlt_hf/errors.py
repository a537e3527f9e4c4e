"""The one exception for what a user can put right."""


class DeiTLTError(ValueError):
    """A wrong input: the message is one line that says what was wrong, with the value, and what to pass instead.

    The command line prints it without a traceback and exits with status 2.
    """
