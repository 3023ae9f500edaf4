"""The declared models, and what is said of one that is not."""

import pytest

from mlops import models
from mlops.features.repository import service_of
from mlops.models.declaration import Model
from mlops.result import Failure, Refused
from mlops.training import families


@pytest.mark.parametrize("name", models.names())
def test_each_declaration_names_what_there_is(name: str) -> None:
    model = models.get(name)
    assert model.name == name
    assert model.data.name == model.dataset
    assert model.data.label.kind in families.get(model.family).KINDS
    assert model.data.label.kind in model.judged_by.kinds
    if model.feature_service:
        assert model.data.event_time, "features are joined as of a row's event"
        assert service_of(model).name == model.feature_service


def test_one_name_stands_for_one_contract_of_columns() -> None:
    contracts = [
        (models.get(name).dataset, models.get(name).feature_service, models.get(name).reads_keys)
        for name in models.names()
    ]
    assert len(set(contracts)) == len(contracts)


def test_an_unknown_model_is_named_with_the_known_ones_and_the_remedy() -> None:
    with pytest.raises(Refused, match=r"'the-weather' is not declared: .*income.*mlops/models/the_weather.py"):
        models.get("the-weather")


@pytest.mark.parametrize("name", ["declaration", "metrics", "os.path", "../income", "sensor_failure"])
def test_a_module_that_declares_nothing_is_no_model(name: str) -> None:
    with pytest.raises(Refused, match="is not declared"):
        models.get(name)


def test_a_file_that_declares_another_name_is_refused(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "the_weather.py").write_text("from mlops.models.income import MODEL\n")
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    with pytest.raises(Failure, match=r"mlops/models/the_weather.py must set MODEL to a Model named 'the-weather'"):
        models.get("the-weather")


def test_a_model_of_a_dataset_that_there_is_not_is_refused() -> None:
    with pytest.raises(Refused, match="'nowhere' is not declared"):
        _ = Model("m", "", "nowhere").data


def test_a_metric_that_there_is_not_is_refused_where_it_is_declared() -> None:
    with pytest.raises(ValueError, match=r"metric 'gini' is not known: use one of accuracy, .*recall_at_precision_0.9"):
        Model("m", "", "shuttle", metric="gini")
    with pytest.raises(ValueError, match="a threshold is one of a metric: declare which"):
        Model("m", "", "shuttle", threshold=0.9)
    assert Model("m", "", "shuttle", metric="recall_at_precision_0.95").judged_by.precision == 0.95


def test_a_metric_of_another_kind_of_label_is_refused_with_those_of_its_own() -> None:
    with pytest.raises(Failure, match=r"mae is no metric of a binary label: .* accuracy, f1.*mlops/models/m.py"):
        _ = Model("m", "", "shuttle", metric="mae").judged_by


def test_an_unknown_family_is_named_with_the_known_ones() -> None:
    with pytest.raises(Failure, match=r"family 'xgboost' is not there: use one of sklearn"):
        families.get("xgboost")
    assert families.of({}) is families.get(families.FIRST)
