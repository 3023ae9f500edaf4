"""How a channel does not take a message."""

from mlops.result import Failure


class Passing(Failure):
    """What may be over a moment later."""


def slow(error: OSError) -> bool:
    """Whether it is no answer in time. That is not waited for again: a callback of Airflow's has 50 s in all."""
    return isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError)


class Partly(Failure):
    """Some of those who should get the message got it."""
