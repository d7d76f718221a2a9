-- Who may call the functions that are done with their owner's rights (the last functions of schema.sql): whoever may read the tables, and
-- nobody else. Set by each 'everthread migrate': roles come later, and a restore may leave rights out.
DO $function$
DECLARE
    f regprocedure;
    reader regrole;
BEGIN
    FOR f IN SELECT p.oid FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.prosecdef LOOP
        IF has_function_privilege('public', f, 'EXECUTE') THEN
            EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
        END IF;
        FOR reader IN SELECT r.grantee FROM pg_class c, aclexplode(c.relacl) r
            WHERE c.oid = 'threads'::regclass AND r.privilege_type = 'SELECT' AND r.grantee <> 0
                AND NOT has_function_privilege(r.grantee, f, 'EXECUTE')
        LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', f, reader);
        END LOOP;
    END LOOP;
EXCEPTION
    WHEN insufficient_privilege OR undefined_table THEN NULL;  -- They are another's, who has done it; or gone.
END
$function$;
