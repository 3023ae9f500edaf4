"""What a dataset's declaration expects of values and rows, and Great Expectations' judgement of a table by it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.expectation import Expectation

from mlops.datasets.declaration import Column, Dataset


def of_values(column: Column) -> list[Expectation]:
    """Values are there, lie in the declared range, and are among the declared ones."""
    expectations: list[Expectation] = []
    if not column.nullable:
        expectations.append(gxe.ExpectColumnValuesToNotBeNull(column=column.name))
    if column.low is not None or column.high is not None:
        expectations.append(
            gxe.ExpectColumnValuesToBeBetween(column=column.name, min_value=column.low, max_value=column.high)
        )
    if column.values:
        expectations.append(gxe.ExpectColumnValuesToBeInSet(column=column.name, value_set=list(column.values)))
    return expectations


def of_rows(dataset: Dataset) -> list[Expectation]:
    """No more rows repeat than may."""
    if dataset.duplicates is None:
        return []
    return [gxe.ExpectCompoundColumnsToBeUnique(column_list=dataset.row_key, mostly=1 - dataset.duplicates)]


def judge(
    table: pd.DataFrame, dataset: Dataset, expectations: Sequence[Expectation], docs: Path | None = None
) -> list[dict[str, Any]]:
    """The result of each expectation, as JSON. docs: an empty folder for Data Docs, a site with `index.html`."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    batches = context.data_sources.add_pandas(dataset.name).add_dataframe_asset("table")
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(
            name=dataset.name,
            data=batches.add_batch_definition_whole_dataframe("all"),
            suite=context.suites.add(gx.ExpectationSuite(name=dataset.name, expectations=list(expectations))),
        )
    )
    if docs is not None:
        context.add_data_docs_site(
            site_name="report",
            site_config={
                "class_name": "SiteBuilder",
                "show_how_to_buttons": False,  # type: ignore[typeddict-unknown-key]  # read, though not annotated
                "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)},
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            },
        )
    result = definition.run(batch_parameters={"dataframe": table})
    if docs is not None:
        context.build_data_docs(["report"])
    return [entry.to_json_dict() for entry in result.results]
