"""The exception for errors that the user can fix."""


class InputError(ValueError):
    """An invalid value, file or flag.

    The message names the value, what was expected and how to fix it. Commands print it on one line, without
    a traceback, and exit with code 2.
    """


class PromptTooLongError(InputError):
    """A prompt that leaves no room for an answer; a conversation without its oldest rounds may fit."""
