-- The ledger of promotions (mlops/stores/ledger.py). Its role adds entries and reads them; it can neither change nor remove
-- one. To be run in the database `ledger` by another role, who owns what is made here. To run it again changes nothing.
CREATE TABLE IF NOT EXISTS public.promotions (
  model text NOT NULL,
  number integer NOT NULL CHECK (number > 0),
  verb text NOT NULL CHECK (verb IN ('promote', 'rollback', 'adopt')),
  who text NOT NULL,
  at timestamptz NOT NULL,
  from_version text,
  to_version text,
  why text NOT NULL,
  evidence jsonb NOT NULL,
  request text NOT NULL,
  before text NOT NULL,
  PRIMARY KEY (model, number),
  UNIQUE (model, request)
);
REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE ALL ON public.promotions FROM PUBLIC, ledger;
GRANT USAGE ON SCHEMA public TO ledger;
GRANT SELECT, INSERT ON public.promotions TO ledger;
