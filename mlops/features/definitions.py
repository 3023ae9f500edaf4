"""The declared definitions beside those in Feast's registry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mlops.features import repository
from mlops.features.contract import difference

if TYPE_CHECKING:
    from feast import FeatureStore
    from feast.feast_object import FeastObject

    from mlops.stores.feature_store import FeatureStoreConfig


def changes(store: FeatureStore, config: FeatureStoreConfig) -> list[str]:
    """What `apply` would change, as a diff; empty where the registry holds what is declared."""
    return list(difference(describe(_registered(store)), describe(repository.objects(config))))


def apply(store: FeatureStore, config: FeatureStoreConfig) -> None:
    """Makes the registry hold what is declared and nothing else."""
    declared = repository.objects(config)
    kept = {(type(entry), entry.name) for entry in declared}
    gone = [entry for entry in _registered(store) if (type(entry), entry.name) not in kept]
    store.apply(declared, objects_to_delete=gone, partial=False)


def describe(objects: Iterable[FeastObject]) -> dict[str, str]:
    """What of each definition matters to who reads features, a line each."""
    from feast import Entity, FeatureService, FeatureView, FileSource

    lines: dict[str, str] = {}
    for entry in objects:
        if isinstance(entry, Entity):
            lines[f"entity {entry.name}"] = f"join key {entry.join_key} ({entry.value_type.name})"
        elif isinstance(entry, FeatureService):
            views = ", ".join(view.name for view in entry.feature_view_projections)
            lines[f"service {entry.name}"] = f"{views}; {entry.tags.get('served_age', 'of any age')}"
            for view in entry.feature_view_projections:
                lines |= {
                    f"service {entry.name}, {view.name}:{field.name}": str(field.dtype) for field in view.features
                }
        elif isinstance(entry, FeatureView) and isinstance(entry.batch_source, FileSource):
            keys, source = ", ".join(field.name for field in entry.entity_columns), entry.batch_source
            lines[f"view {entry.name}"] = f"by {keys} from {source.path} at {source.s3_endpoint_override or 'hand'}"
            lines |= {f"feature {entry.name}:{field.name}": str(field.dtype) for field in entry.features}
    return lines


def _registered(store: FeatureStore) -> list[FeastObject]:
    store.refresh_registry()  # type: ignore[no-untyped-call]
    return [*store.list_feature_services(), *store.list_feature_views(), *store.list_entities()]
