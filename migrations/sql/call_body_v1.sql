-- A call's body, the very bytes: its frames, and what stands between them. NULL where something of it was erased.
CREATE FUNCTION call_body_v1(project uuid, b smallint, turn uuid, frames text[], refs integer[])
RETURNS text LANGUAGE plpgsql STABLE AS $function$
DECLARE
    body text := frames[1];
    part text;
BEGIN
    FOR i IN 1..cardinality(refs) / 2 LOOP
        IF refs[2 * i - 1] = 0 THEN
            SELECT s.data::text INTO part FROM items s
                WHERE s.project_id = project AND s.bucket = b AND s.turn_id = turn AND s.position = refs[2 * i]
                    AND s.origin = 'input';
            IF NOT FOUND THEN RETURN NULL; END IF;
        ELSE
            SELECT CASE WHEN count(p.data) = refs[2 * i] - refs[2 * i - 1] + 1
                    THEN string_agg(p.data, '' ORDER BY p.number) END
                INTO part FROM pieces p
                WHERE p.project_id = project AND p.bucket = b AND p.thread_id = (
                    SELECT t.thread_id FROM turns t WHERE t.project_id = project AND t.bucket = b AND t.id = turn
                ) AND p.number BETWEEN refs[2 * i - 1] AND refs[2 * i];
        END IF;
        body := body || part || frames[i + 1];
    END LOOP;
    RETURN body;
END
$function$;
