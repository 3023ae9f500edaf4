import socket
from collections.abc import Iterator

import pytest

from mlops.config import StatsdSettings
from mlops.stores.metrics import Statsd


@pytest.fixture
def exporter() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(5)
        yield listening


@pytest.fixture
def metrics(exporter: socket.socket) -> Statsd:
    return Statsd(StatsdSettings("127.0.0.1", str(exporter.getsockname()[1])))


def received(exporter: socket.socket) -> str:
    return exporter.recv(1024).decode()


def test_a_count_arrives_with_its_tags_in_the_style_that_the_exporter_reads(metrics, exporter):
    metrics.count("alerts", dataset="shuttle", kind="drift")
    assert received(exporter) == "maestro.alerts,dataset=shuttle,kind=drift:1|c"


def test_a_count_may_be_of_many_and_without_tags(metrics, exporter):
    metrics.count("rows_written", 49_097)
    assert received(exporter) == "maestro.rows_written:49097|c"


@pytest.mark.parametrize(("value", "sent"), [(0.25, "0.25"), (3, "3"), (1_000_000, "1000000"), (1e-12, "1e-12")])
def test_a_gauge_arrives_as_a_number(metrics, exporter, value, sent):
    metrics.gauge("seconds", value, view="sensor_windows")
    assert received(exporter) == f"maestro.seconds,view=sensor_windows:{sent}|g"


def test_a_negative_gauge_is_set_and_not_subtracted(metrics, exporter):
    metrics.gauge("shift", -2.5)
    assert received(exporter) == "maestro.shift:0|g\nmaestro.shift:-2.5|g"


def test_what_would_end_a_tag_is_replaced(metrics, exporter):
    metrics.count("alerts", column="a,b=c:d|e\nf g", kind="", run=None)
    assert received(exporter) == "maestro.alerts,column=a_b_c_d_e_f_g,kind=none,run=None:1|c"


def test_a_number_that_is_none_is_not_sent(metrics, exporter):
    for value in (float("nan"), float("inf")):
        metrics.gauge("seconds", value)
    metrics.gauge("seconds", 1.0)
    assert received(exporter) == "maestro.seconds:1|g"


@pytest.mark.parametrize(
    ("host", "port"), [("no-such-host.invalid", "9125"), ("127.0.0.1", "no-port"), ("a" * 80, "1")]
)
def test_an_exporter_that_cannot_be_found_fails_no_command(caplog, host, port):
    metrics = Statsd(StatsdSettings(host, str(port)))
    metrics.count("alerts")
    metrics.gauge("seconds", 1.0)
    assert "correct global.services.statsd" in caplog.text
    assert len(caplog.records) == 1, "it is said once, not for each number"


def test_an_exporter_that_is_away_fails_no_command_and_is_told_of_once(exporter, caplog):
    metrics = Statsd(StatsdSettings("127.0.0.1", str(exporter.getsockname()[1])))
    exporter.close()
    for _ in range(20):  # the refusal of one packet is told by the next
        metrics.count("alerts")
    assert [record.message.startswith("metrics may be lost") for record in caplog.records] == [True]
