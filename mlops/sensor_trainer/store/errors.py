"""How the stores say that a server behind them is away, or lets nobody in."""

from mlops.result import Failure, Refused


class Unavailable(Failure):
    """A server gives no answer, or none in time. What was asked may be asked again: nothing is done twice.

    service: `postgresql` or `redis`.
    """

    def __init__(self, service: str, text: str) -> None:
        super().__init__(text)
        self.service = service


class AccessDenied(Refused):
    """A server answers that this user may not, which stays so until somebody changes it."""

    def __init__(self, service: str, text: str) -> None:
        super().__init__(text)
        self.service = service
