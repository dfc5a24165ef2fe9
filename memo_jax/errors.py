"""The one exception a user is meant to read."""


class UserError(Exception):
    """The user's own mistake, told in one line: what was wrong, what was expected, what to do.

    Commands print the message to stderr and exit with status 2, without a traceback.
    """


def one_line(text: object) -> str:
    """`text` with line breaks folded to spaces, so that a message stays one line."""
    return " ".join(str(text).split())
