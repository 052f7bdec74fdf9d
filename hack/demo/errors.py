"""How a step of the demonstration says what went wrong."""


class DemoError(Exception):
    """A step failed. The message is one sentence that says what happened and what to do."""
