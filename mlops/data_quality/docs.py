"""Great Expectations' own results and Data Docs, made of judgements: its engine is not asked."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import great_expectations as gx
from great_expectations.core.expectation_validation_result import (
    ExpectationSuiteValidationResult,
    ExpectationValidationResult,
)
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.data_context.types.resource_identifiers import (
    ExpectationSuiteIdentifier,
    ValidationResultIdentifier,
)
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

from mlops.data_quality.checks import Judgement
from mlops.datasets.declaration import Dataset


def results(judgements: Sequence[Judgement], dataset: Dataset, now: datetime) -> ExpectationSuiteValidationResult:
    """What a run of the dataset's suite by Great Expectations gives."""
    met = sum(judgement.success for judgement in judgements)
    return ExpectationSuiteValidationResult(
        success=met == len(judgements),
        results=[
            ExpectationValidationResult(
                success=one.success,
                expectation_config=_configuration(one),
                result=dict(one.result),
            )
            for one in judgements
        ],
        suite_name=dataset.name,
        statistics={
            "evaluated_expectations": len(judgements),
            "successful_expectations": met,
            "unsuccessful_expectations": len(judgements) - met,
            "success_percent": 100 * met / len(judgements) if judgements else None,
        },
        meta={
            "great_expectations_version": gx.__version__,
            "run_id": RunIdentifier(run_time=now),
            "validation_time": now.isoformat(),
            "active_batch_definition": {"datasource_name": dataset.name, "data_asset_name": "table"},
        },
        batch_id=f"{dataset.name}-table",
    )


def write(judgements: Sequence[Judgement], dataset: Dataset, site: Path) -> None:
    """Data Docs of one run: a site with `index.html` in the empty folder `site`."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    context.add_data_docs_site(
        site_name="report",
        site_config={
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,  # type: ignore[typeddict-unknown-key]  # read, though not annotated
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(site)},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        },
    )
    found = results(judgements, dataset, datetime.now(UTC))
    configurations = [_configuration(judgement) for judgement in judgements]
    context.suites.add(gx.ExpectationSuite(name=dataset.name, expectations=list(configurations)))
    key = ValidationResultIdentifier(
        expectation_suite_identifier=ExpectationSuiteIdentifier(dataset.name),
        run_id=found.meta["run_id"],
        batch_identifier=found.batch_id,
    )
    context.validation_results_store.set(key, found)
    context.build_data_docs(["report"])


def _configuration(judgement: Judgement) -> ExpectationConfiguration:
    return ExpectationConfiguration(type=judgement.expectation.type, kwargs=dict(judgement.expectation.kwargs))
