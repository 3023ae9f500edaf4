"""Which partitions of a view an event changes, and that they can be computed by themselves."""

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from mlops import datasets
from mlops.datasets.declaration import EVENT_TIME
from mlops.features.build import inputs
from mlops.features.partitions import begin, contents, end_of, touched
from mlops.features.repository import VIEWS
from mlops.features.update import union
from tests.unit.feature_files import rows_of

START = datetime(2026, 1, 31, 21, tzinfo=UTC)  # a day and a month end within the rows
TIME = pl.Datetime("us", "UTC")
VIEW = {view.name: view for view in VIEWS}


def raw_table(view, rows):
    """Rows (entity, minute, value) in the columns of the view's set."""
    dataset = datasets.get(view.dataset)
    columns = {
        column.name: [str(value) if not column.numeric else value for _, _, value in rows] for column in dataset.columns
    }
    columns |= {
        view.key.column: [entity for entity, _, _ in rows],
        EVENT_TIME: [START + timedelta(minutes=at) for _, at, _ in rows],
    }
    schema = {column.name: pl.Int64 if column.numeric else pl.String for column in dataset.columns} | {EVENT_TIME: TIME}
    return pl.DataFrame(columns, schema=schema)


# Six days, in steps of twenty minutes.
rows_of_a_set = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 6 * 72).map(lambda at: 20 * at), st.integers(0, 5)), max_size=20
)


def contents_of(view, raw):
    return contents(raw.lazy().select(inputs(view, datasets.get(view.dataset))), view.partition)


def without(rows, starts, every):
    """The rows that are in no one of these partitions, but for the time of writing."""
    inside = [
        pl.col("event_timestamp").is_between(begin(start), begin(end_of(start, every)), closed="left")
        for start in starts
    ]
    return rows.filter(~pl.any_horizontal(pl.lit(False), *inside)).drop("created")


@pytest.mark.parametrize("name", VIEW)
def test_a_partition_that_is_not_touched_has_the_same_features_as_before(name):
    view = VIEW[name]

    @given(rows_of_a_set, rows_of_a_set, st.data())
    def check(rows, more, data):
        kept = data.draw(st.lists(st.sampled_from(rows), unique=True) if rows else st.just([]))
        before, after = raw_table(view, rows), raw_table(view, [*kept, *more])
        starts = touched(contents_of(view, before), contents_of(view, after), view.partition, view.reach)
        gone = contents_of(view, before).keys() - contents_of(view, after).keys()
        assert_frame_equal(
            *(without(rows_of(view, table), [*starts, *gone], view.partition) for table in (before, after))
        )

    check()


@pytest.mark.parametrize("name", [view.name for view in VIEWS if view.reach])
def test_a_partition_is_computed_from_the_events_that_reach_it(name):
    view = VIEW[name]

    @given(rows_of_a_set)
    def check(rows):
        raw = raw_table(view, rows)
        whole = rows_of(view, raw)
        for start in contents_of(view, raw):
            first, last = begin(start), begin(end_of(start, view.partition))
            near = raw.filter(pl.col(EVENT_TIME).is_between(first - view.reach, last, closed="left"))
            inside = pl.col("event_timestamp").is_between(first, last, closed="left")
            assert_frame_equal(rows_of(view, near).filter(inside), whole.filter(inside))

    check()


def test_the_same_events_in_another_order_are_the_same_content():
    view = VIEW["user_activity"]
    raw = raw_table(view, [("a", 0, 1), ("b", 20, 2), ("a", 20, 3)])
    assert contents_of(view, raw) == contents_of(view, raw.reverse())
    assert contents_of(view, raw) == contents_of(view, raw.with_columns(pl.col("rating").cast(pl.Float64)))
    assert contents_of(view, raw) != contents_of(view, pl.concat([raw, raw.head(1)]))
    assert contents_of(view, raw) != contents_of(view, raw.with_columns(rating=pl.lit(9, pl.Int64)))


def test_only_what_an_event_reaches_is_touched():
    days = [date(2026, 3, day) for day in (1, 2, 3, 4, 9)]
    before = dict.fromkeys(days, "1")
    hour = timedelta(hours=1)
    assert touched(before, before, "1d", hour) == []
    assert touched(before, {**before, days[1]: "2"}, "1d", hour) == [days[1], days[2]]
    assert touched(before, {**before, days[3]: "2"}, "1d", hour) == [days[3]]
    assert touched(before, {**before, days[3]: "2"}, "1d", None) == [days[3], days[4]]
    assert touched(before, dict.fromkeys(days[1:], "1"), "1d", hour) == [days[1]], "a day that is gone"
    assert touched({}, before, "1d", hour) == days


@pytest.mark.parametrize(
    ("start", "every", "end"),
    [
        (date(2026, 2, 28), "1d", date(2026, 3, 1)),
        (date(2026, 1, 1), "1mo", date(2026, 2, 1)),
        (date(2026, 12, 1), "1mo", date(2027, 1, 1)),
    ],
)
def test_a_partition_ends_where_the_next_begins(start, every, end):
    assert end_of(start, every) == end


def test_a_reading_that_the_set_has_as_well_counts_once():
    view, dataset = VIEW["sensor_windows"], datasets.get("shuttle")
    rows = raw_table(view, [("a", 0, 1), ("a", 0, 2), ("b", 20, 2)]).with_columns(
        pl.col(EVENT_TIME).dt.cast_time_unit("ns")
    )
    readings = raw_table(view, [("a", 0, 7), ("a", 40, 8)]).with_columns(pl.col("f1").cast(pl.Float64))
    both = union(rows.lazy(), readings.lazy(), dataset).collect()
    assert both.select("machine", "f1").rows() == [("a", 1.0), ("a", 2.0), ("b", 2.0), ("a", 8.0)]
    assert union(rows.lazy(), None, dataset).collect().height == 3
