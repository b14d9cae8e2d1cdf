"""The one exception that a user may see: a single line, exit code 2, no traceback."""

from __future__ import annotations


class UserError(Exception):
    """A mistake the user can mend.  The message says what was expected, what came and what to do."""
