"""The one exception that means "the user can mend this"."""


class InputError(ValueError):
    """A value, file or flag that cannot be used.

    The message names the value, what was expected and how to mend it. The command line prints it
    on one line and exits with code 2; a traceback would hide it.
    """
