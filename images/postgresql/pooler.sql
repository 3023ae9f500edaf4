-- By which the pooler (pooler-start) knows with what password a client may come in: of a database that of the one role who
-- is called like it, and of no other. What it is told is what the server keeps, which tells the password to nobody.
-- To be run in each database that is pooled, by a superuser, whose function it is. To run it again changes nothing.
CREATE SCHEMA IF NOT EXISTS pooler;
-- The database's owner may have made one before.
ALTER SCHEMA pooler OWNER TO postgres;
REVOKE ALL ON SCHEMA pooler FROM PUBLIC;
CREATE OR REPLACE FUNCTION pooler.password(client text) RETURNS TABLE (role text, kept text)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT rolname::text, rolpassword FROM pg_authid WHERE rolname = client AND rolname = current_database() AND rolcanlogin
  $$;
REVOKE ALL ON FUNCTION pooler.password FROM PUBLIC;
GRANT USAGE ON SCHEMA pooler TO pooler;
GRANT EXECUTE ON FUNCTION pooler.password TO pooler;
