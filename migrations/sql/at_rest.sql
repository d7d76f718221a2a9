-- Contents that a project may have encrypted: see app/sealing and app/db/sealed.py. The database sees of them what it is
-- asked for by: of a message a role and keyed hashes of its words, of a title those hashes, of metadata those of pairs.

-- From this moment on what is written is sealed: workers have the key a little before.
ALTER TABLE projects ADD COLUMN encrypted_at timestamptz;
-- Since then nobody can open what was sealed for it.
ALTER TABLE projects ADD COLUMN key_destroyed_at timestamptz;
ALTER TABLE projects ADD CONSTRAINT projects_key_destroyed_check
    CHECK (key_destroyed_at IS NULL OR (encrypted_at IS NOT NULL AND archived_at IS NOT NULL));

-- What is sealed does not become plain again.
CREATE FUNCTION projects_guard() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF OLD.encrypted_at IS NOT NULL AND NEW.encrypted_at IS DISTINCT FROM OLD.encrypted_at THEN
        PERFORM refuse_row('projects_encrypted_check');
    END IF;
    IF OLD.key_destroyed_at IS NOT NULL AND NEW.key_destroyed_at IS DISTINCT FROM OLD.key_destroyed_at THEN
        PERFORM refuse_row('projects_key_destroyed_check');
    END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER projects_guard BEFORE UPDATE OF encrypted_at, key_destroyed_at ON projects
    FOR EACH ROW EXECUTE FUNCTION projects_guard();

CREATE OR REPLACE FUNCTION message_lexemes_v1(project uuid, turn uuid, data json) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE COST 10000 AS $function$
DECLARE
    role text := coalesce(data->>'role', data->1->>'role');
    id text := encode(uuid_send(turn), 'hex');
    mark text;
    marks text[];
BEGIN
    IF role IN ('user', 'assistant') THEN
        mark := '=' || role || encode(uuid_send(project), 'hex');
        marks := ARRAY[mark, mark || '=' || left(id, 4), mark || '=' || left(id, 5), mark || '=' || left(id, 6)];
        IF json_typeof(data) = 'array' THEN
            RETURN array_to_tsvector(marks || string_to_array(data->1->>'words', ' '));
        END IF;
        RETURN lexemes_v1(coalesce(message_text_v1(data), ''), marks);
    END IF;
    RETURN NULL;
END
$function$;

CREATE OR REPLACE FUNCTION title_lexemes_v1(project uuid, title text) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE COST 10000 AS $function$
DECLARE
    mark text := '=title' || encode(uuid_send(project), 'hex');
BEGIN
    IF starts_with(title, E'\x01et1:') THEN
        RETURN array_to_tsvector(mark || (string_to_array(title, ' '))[2:]);
    END IF;
    RETURN lexemes_v1(title, ARRAY[mark]);
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
    IF wrong IS NULL AND TG_OP = 'UPDATE' AND NEW.head_turn_id IS DISTINCT FROM OLD.head_turn_id
        AND NEW.head_turn_id IS NOT NULL AND NOT by_function()
        AND NOT in_history(NEW.project_id, NEW.bucket, NEW.id, NEW.head_turn_id)
    THEN
        wrong := 'threads_head_turn_fkey';
    END IF;
    IF wrong IS NOT NULL THEN PERFORM refuse_row(wrong); END IF;
    RETURN NEW;
END
$function$;

ALTER TABLE feedback DROP CONSTRAINT feedback_comment_check;
ALTER TABLE feedback ADD CONSTRAINT feedback_comment_check
    CHECK (char_length(comment) BETWEEN 1 AND 4000 OR starts_with(comment, E'\x01')) NOT VALID;
