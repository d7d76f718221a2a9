-- The role of app/db/wall.py, made or opened to new tables by each 'everthread migrate': in a database that was restored
-- elsewhere it is not there. Whoever may make none goes on without.
DO $function$
DECLARE
    t regclass;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'everthread_service') THEN
        CREATE ROLE everthread_service NOLOGIN NOSUPERUSER NOBYPASSRLS;
    END IF;
    BEGIN
        SET LOCAL ROLE everthread_service;
        SET LOCAL ROLE NONE;
    EXCEPTION WHEN insufficient_privilege THEN
        -- Who has made a role may give it to himself, and from Postgres 16 on has to.
        EXECUTE format('GRANT everthread_service TO %I', current_user);
    END;
    FOR t IN SELECT c.oid FROM pg_class c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname <> 'alembic_version'
            AND NOT has_table_privilege('everthread_service', c.oid, 'DELETE')
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO everthread_service', t);
    END LOOP;
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
    WHEN duplicate_object OR unique_violation THEN NULL;  -- Another database's migration has just made it.
END
$function$;
