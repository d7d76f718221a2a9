-- What a turn costs, less: what each of its statements looks at is what the statement changes.

-- A head moves with each turn, and the rest of a thread's row seldom.
CREATE FUNCTION threads_head_guard() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF NOT by_function() AND NEW.head_turn_id IS NOT NULL AND NEW.head_turn_id IS DISTINCT FROM OLD.head_turn_id
        AND NOT in_history(NEW.project_id, NEW.bucket, NEW.id, NEW.head_turn_id)
    THEN
        PERFORM refuse_row('threads_head_turn_fkey');
    END IF;
    RETURN NEW;
END
$function$;

CREATE OR REPLACE FUNCTION threads_guard() RETURNS trigger LANGUAGE plpgsql AS $function$
DECLARE
    wrong text := CASE
        WHEN NEW.bucket <> bucket_of(NEW.id) THEN 'threads_bucket_check'
        WHEN char_length(NEW.name) NOT BETWEEN 1 AND 256 OR strpos(NEW.name, '/') > 0 THEN 'threads_name_check'
        WHEN char_length(NEW.title) > 1000 AND NOT starts_with(NEW.title, E'\x01') THEN 'threads_title_check'
        WHEN char_length(NEW.user_id) NOT BETWEEN 1 AND 256 THEN 'threads_user_id_check'
        WHEN jsonb_typeof(NEW.metadata) <> 'object' THEN 'threads_metadata_check'
    END;
BEGIN
    IF wrong IS NOT NULL THEN PERFORM refuse_row(wrong); END IF;
    RETURN NEW;
END
$function$;

DROP TRIGGER threads_guard ON threads;
CREATE TRIGGER threads_guard BEFORE INSERT OR UPDATE OF id, bucket, name, title, user_id, metadata
    ON threads FOR EACH ROW EXECUTE FUNCTION threads_guard();
CREATE TRIGGER threads_head_guard BEFORE UPDATE OF head_turn_id
    ON threads FOR EACH ROW EXECUTE FUNCTION threads_head_guard();

-- The same lexemes. Nearly all messages are one plain text: those need no other function of ours. REINDEX and pg_restore call
-- this one with an empty search_path: what the rest need is named with its schema, for to SET a path at each call costs more.
CREATE OR REPLACE FUNCTION message_lexemes_v1(project uuid, turn uuid, data json) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE COST 10000 AS $function$
DECLARE
    role text := coalesce(data->>'role', data->1->>'role', '');
    mark text;
    marks text[];
    content json;
    said text;
BEGIN
    IF role NOT IN ('user', 'assistant') THEN RETURN NULL; END IF;
    mark := '=' || role || encode(uuid_send(project), 'hex');
    marks := ARRAY[
        mark, mark || '=' || left(turn::text, 4), mark || '=' || left(turn::text, 5), mark || '=' || left(turn::text, 6)
    ];
    content := data->'content';
    said := CASE json_typeof(content)
        WHEN 'string' THEN data->>'content'
        WHEN 'array' THEN CASE WHEN content->1 IS NULL THEN content->0->>'text' END
    END;
    IF said <> '' AND octet_length(said) = char_length(said) AND octet_length(said) <= 200000 THEN
        RETURN array_to_tsvector(marks)
            || to_tsvector('pg_catalog.simple', regexp_replace(lower(said COLLATE "C"), '[-./@_<&+]', ' ', 'g'));
    END IF;
    IF json_typeof(data) = 'array' THEN
        RETURN array_to_tsvector(marks || string_to_array(data->1->>'words', ' '));
    END IF;
    RETURN {schema}.lexemes_v1(coalesce({schema}.message_text_v1(data), ''), marks);
END
$function$;
