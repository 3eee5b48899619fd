"""The one exception that users see: what is wrong and what to do about it, in a line."""

from __future__ import annotations


class DsvError(Exception):
    """A condition that the user can mend.

    The message is one line that names the thing and the remedy. Commands print it without a traceback and exit
    with a non-zero status; libraries may catch it by this one type.
    """
