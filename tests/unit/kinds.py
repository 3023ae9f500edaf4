"""Houses, of which it is asked what a model of each kind can say: a class, another one of several, a price."""

from dataclasses import replace

import numpy as np
import pandas as pd

from mlops.datasets.declaration import Column, Dataset, Derived, Label, Source, SplitByKey

CLASSES = ("farm", "flat", "house")

_REGRESSION = Dataset(
    name="houses",
    description="Houses of one street after the other.",
    source=Source(file="houses.csv", format="csv"),
    columns=(
        Column("house", "integer", feature=False),
        Column("street", "identifier", nullable=True),
        Column("area", "number", low=0, nullable=True, fill=-1.0),
        Column("heating", "category", values=("gas", "oil"), nullable=True, fill="none"),
        Column("built", "integer", nullable=True),
        Column("price", "number", feature=False),
        Column("type", "category", values=CLASSES, feature=False),
    ),
    label=Label("price", kind="regression"),
    split=SplitByKey(test_fraction=0.3),
    rows=(1, 1_000_000),
    key=("house",),
    derived=(Derived("area_a_year", "ratio", ("area", "built")),),
)
HOUSES: dict[str, Dataset] = {
    "binary": replace(_REGRESSION, label=Label("price", at_least=100)),
    "multiclass": replace(_REGRESSION, label=Label("type", kind="multiclass")),
    "regression": _REGRESSION,
}


def houses(rows: int, seed: int = 3) -> pd.DataFrame:
    """Raw rows. A house whose area or heating is missing is a cheap one: what is missing says a lot."""
    generator = np.random.default_rng(seed)
    area = generator.uniform(40, 200, rows).round(1)
    street = generator.integers(0, 30, rows)
    heating = generator.choice(np.array(["gas", "oil"], dtype=object), rows)
    unknown, cold = generator.random(rows) < 0.3, generator.random(rows) < 0.3
    price = area + 2 * street + np.where(heating == "gas", 20, 0) - np.where(unknown, 80, 0) - np.where(cold, 60, 0)
    types = np.array(CLASSES, dtype=object)[np.digitize(price + generator.normal(0, 5, rows), [90, 150])]
    return pd.DataFrame(
        {
            "house": np.arange(rows, dtype=float),
            "street": [None if number == 0 else f"street {number}" for number in street],
            "area": np.where(unknown, np.nan, area),
            "heating": np.where(cold, None, heating),
            "built": np.where(generator.random(rows) < 0.1, np.nan, generator.integers(1900, 2020, rows)),
            "price": price + generator.normal(0, 5, rows),
            "type": types,
        }
    )
