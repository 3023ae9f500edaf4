"""Readings, and the jobs that train with them."""

from alembic import op

revision = "0001"
down_revision = None

_STEPS = (
    """
    create table sensors.readings (
        id bigint generated always as identity primary key,
        key text not null unique,
        sensor text not null,
        time timestamptz not null,
        "values" double precision[] not null,
        failure boolean,
        received timestamptz not null default now()
    )
    """,
    "create index readings_time on sensors.readings (time)",
    """
    create table sensors.training_jobs (
        id uuid primary key,
        model text not null,
        idempotency_key text not null unique,
        request jsonb not null,
        state text not null default 'queued'
            check (state in ('queued', 'running', 'succeeded', 'skipped', 'failed', 'cancelled')),
        step text not null default 'waiting for a worker',
        progress real not null default 0,
        attempt int not null default 0,
        handed_over timestamptz,
        heartbeat timestamptz,
        created timestamptz not null default now(),
        started timestamptz,
        finished timestamptz,
        result jsonb,
        error text,
        cancel_requested boolean not null default false
    )
    """,
    # At most one training of a model at a time, whatever asks for it.
    """
    create unique index training_jobs_active on sensors.training_jobs (model) where state in ('queued', 'running')
    """,
    "create index training_jobs_finished on sensors.training_jobs (model, finished) where state = 'succeeded'",
)


def upgrade() -> None:
    for step in _STEPS:
        op.execute(step)


def downgrade() -> None:
    op.execute("drop table sensors.training_jobs, sensors.readings")
