"""How old values are when they are served, and so the moment as of which a row is trained on and judged.

A model is judged on what it will be served. What is served depends on how values come into the online store: once a
day, when a materialization has run, or with each push. The schedule is emulated and no fixed lag is subtracted: values
that are brought at one moment of the day are new in the morning and a day old in the evening, and a lag of their
mean or their largest age would train a model on an age that hardly any request meets.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Materialized:
    """Brought once a day: the values as of `at` (UTC), served from `takes` later until the next day's are."""

    at: time
    takes: timedelta

    @property
    def longest(self) -> timedelta:
        """The age that a value has a moment before the next one takes its place."""
        return timedelta(days=1) + self.takes

    def known_at(self, event: float, materialized: float | None) -> float:
        """As of when a value is known that is of this event (both in seconds since 1970).

        It stands until the next event: it is as new as the last materialization that looked for one, in an offline
        store that was complete up to `materialized`.
        """
        return event if materialized is None else max(event, materialized)

    def as_of(self, times: pd.Series, before: timedelta) -> pd.Series:
        """The last `at` whose values are served at each of the times (UTC); `before` is less than `takes`."""
        since_midnight = datetime.combine(date.min, self.at) - datetime.min
        moments: pd.Series = (times - self.takes - since_midnight).dt.floor("D") + since_midnight
        return moments

    def __str__(self) -> str:
        return f"materialized daily, as of {self.at:%H:%M} UTC, and up to {_hours(self.longest)} h old"


@dataclass(frozen=True)
class Pushed:
    """Brought with the events: `within` this time of an event its values are served.

    A model that reads its own event (a service whose `before` is nothing) is asked about the newest event that was
    pushed, so it sees that event's values. One that is asked before an event happens sees those before it that were
    pushed by then.
    """

    within: timedelta

    @property
    def longest(self) -> timedelta:
        return self.within

    def known_at(self, event: float, materialized: float | None) -> float:
        """As of when a value is known that is of this event: of then."""
        return event

    def as_of(self, times: pd.Series, before: timedelta) -> pd.Series:
        """The moment whose values are served for events at each of the times."""
        return times - before - self.within if before else times

    def __str__(self) -> str:
        return f"pushed, and up to {self.within // timedelta(minutes=1)} min old"


ServedAge = Materialized | Pushed


def _hours(duration: timedelta) -> str:
    return f"{duration / timedelta(hours=1):g}"
