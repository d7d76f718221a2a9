-- The second wall between projects: see app/db/wall.py. It stands for the role everthread_service alone, which nobody has to
-- use: for all others each row is there as before.

CREATE FUNCTION everthread_project() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE RETURN
    nullif(current_setting('everthread.project', true), '')::uuid;

DO $function$
DECLARE
    t text;
BEGIN
    FOR t IN SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attname = 'project_id'
            AND NOT a.attisdropped
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format(
            'CREATE POLICY of_project ON %I USING (project_id = everthread_project() OR current_user <> %L)',
            t, 'everthread_service'
        );
    END LOOP;
END
$function$;
