"""Check data against its dataset's declaration."""

import argparse
import logging
from pathlib import Path
from tempfile import TemporaryDirectory

from mlops import datasets
from mlops.config import RunIdentity, Settings
from mlops.result import Refused, Result
from mlops.stores.object_store import data_bucket, reports_bucket

log = logging.getLogger(__name__)


def validate(*, dataset: str, data: str) -> Result:
    """Checks a table with Great Expectations; fails, with a summary, where an expectation does.

    The report, Great Expectations' Data Docs, is written either way.
    """
    from mlops.data_quality.validate import check

    declared, identity, settings = datasets.get(dataset), RunIdentity.from_environment(), Settings.from_environment()
    table = data_bucket(settings).read_table(data)
    with TemporaryDirectory() as folder:
        outcome = check(table, declared, Path(folder))
        _leave_out_tutorials(Path(folder))
        reports_bucket(settings).upload_folder(Path(folder), identity.run_key)
    report = f"{identity.run_key}/index.html"
    if not outcome.passed:
        failures = "".join(f"\n- {line}" for line in outcome.failures)
        raise Refused(
            f"dataset {dataset}: {len(outcome.failures)} of {outcome.expectations} expectations failed{failures}\n"
            f"Report: s3://{settings.reports_bucket}/{report}. Correct the data, or the declaration in "
            f"mlops/datasets/{dataset}.py, and clear the task that downloads it"
        )
    log.info("all %d expectations hold", outcome.expectations)
    return {"passed": True, "expectations": outcome.expectations, "failed": [], "report": report}


def _leave_out_tutorials(site: Path) -> None:
    """Data Docs brings 3 MB of animated tutorials that its pages show only when asked to."""
    for image in site.glob("static/images/*.gif"):
        image.unlink()


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data", required=True, metavar="KEY", help="the table's key in the data bucket")


COMMANDS = {"validate": (validate, _options)}
