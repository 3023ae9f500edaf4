"""How a channel does not take a message."""

from mlops.result import Failure


class Passing(Failure):
    """What may be over a moment later."""


class Partly(Failure):
    """Some of those who should get the message got it."""
