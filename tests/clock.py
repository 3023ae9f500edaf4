"""A time that tests put in the place of the real one, so that nobody waits."""


class Clock:
    """Time that passes in sleeps only. A sleeper without end is woken by an AssertionError."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert len(self.pauses) < 1_000, "nobody waits that often"
        self.pauses.append(seconds)
        self.now += seconds
