"""Secrets of Airflow's own processes are `***` in what a task that Airflow itself runs prints, as in a pod's log.

The chart says which entries of the environment are secret (MAESTRO_SECRETS).
"""

from __future__ import annotations

import os
from typing import Any, cast

import structlog
from airflow._shared.secrets_masker import SecretsMasker as OfCore
from airflow._shared.secrets_masker import _secrets_masker as of_core
from airflow.sdk._shared.secrets_masker import SecretsMasker as OfTasks
from airflow.sdk._shared.secrets_masker import _secrets_masker as of_tasks
from structlog.typing import EventDict

from mlops.masking import secrets_of, spellings


def mask_environment() -> None:
    """Masks them in this process and in those that it forks.

    Airflow 3.3 masks what its configuration calls sensitive, in one spelling, and what supervises a task forgets even
    that before it begins.
    """
    forms = [form.decode(errors="replace") for secret in secrets_of(os.environ) for form in spellings(secret)]
    reset = OfTasks.reset_masker

    def mask(masker: OfCore | OfTasks) -> None:
        for form in forms:
            masker.add_mask(form)

    def reset_and_mask(masker: OfTasks) -> None:
        reset(masker)  # type: ignore[no-untyped-call]
        mask(masker)

    OfTasks.reset_masker = reset_and_mask  # type: ignore[method-assign]
    mask(of_core())
    mask(of_tasks())
    _mask_own_log()


def _mask_own_log() -> None:
    """In the log of the process itself, where LocalExecutor has tasks' output go too, Airflow masks nothing."""

    def masked(logger: Any, method: str, event: EventDict) -> EventDict:
        return cast("EventDict", of_core().redact(event))

    processors = structlog.get_config()["processors"]
    processors.insert(len(processors) - 1, masked)  # in place: loggers that were used already hold this list
