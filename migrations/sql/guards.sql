-- What no row may be, whoever writes it. A name that ends in _fkey is said as a foreign key is.

-- A thread's history: its own turns, and those that it shares: the ancestors of the turn that it was forked at.
CREATE FUNCTION in_history(project uuid, b smallint, thread uuid, turn uuid) RETURNS boolean
LANGUAGE plpgsql STABLE AS $function$
DECLARE
    forked uuid;
BEGIN
    PERFORM FROM turns t WHERE t.project_id = project AND t.bucket = b AND t.id = turn AND t.thread_id = thread;
    IF FOUND THEN RETURN true; END IF;
    SELECT th.forked_turn_id INTO forked FROM threads th
        WHERE th.project_id = project AND th.bucket = b AND th.id = thread;
    PERFORM FROM (
        WITH RECURSIVE shared AS (
            SELECT t.id, t.parent_id FROM turns t WHERE t.project_id = project AND t.bucket = b AND t.id = forked
            UNION ALL
            SELECT t.id, t.parent_id FROM shared CROSS JOIN LATERAL (
                SELECT t.id, t.parent_id FROM turns t
                WHERE t.project_id = project AND t.bucket = b AND t.id = shared.parent_id OFFSET 0
            ) t
        )
        SELECT shared.id FROM shared
    ) AS history WHERE history.id = turn;
    RETURN FOUND;
END
$function$;

CREATE FUNCTION threads_guard() RETURNS trigger LANGUAGE plpgsql AS $function$
DECLARE
    wrong text := CASE
        WHEN NEW.bucket <> bucket_of(NEW.id) THEN 'threads_bucket_check'
        WHEN char_length(NEW.name) NOT BETWEEN 1 AND 256 OR strpos(NEW.name, '/') > 0 THEN 'threads_name_check'
        WHEN char_length(NEW.title) > 1000 THEN 'threads_title_check'
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
CREATE TRIGGER threads_guard BEFORE INSERT OR UPDATE OF id, bucket, name, title, user_id, metadata, head_turn_id
    ON threads FOR EACH ROW EXECUTE FUNCTION threads_guard();

CREATE FUNCTION turns_guard() RETURNS trigger LANGUAGE plpgsql AS $function$
DECLARE
    runs boolean := NEW.status = 'in_progress';
    wrong text := CASE
        WHEN NEW.status NOT IN ('in_progress', 'completed', 'incomplete', 'failed', 'cancelled')
            THEN 'turns_status_check'
        WHEN runs <> (NEW.completed_at IS NULL) THEN 'turns_completed_at_check'
        WHEN runs <> (NEW.lease_expires_at IS NOT NULL) THEN 'turns_lease_check'
        WHEN (NEW.status = 'failed') <> (NEW.error IS NOT NULL) THEN 'turns_error_check'
        WHEN NEW.status = 'incomplete' AND NEW.incomplete_details IS NULL THEN 'turns_incomplete_details_check'
        WHEN NEW.continuation NOT IN ('new', 'chained', 'rebuilt') THEN 'turns_continuation_check'
        WHEN NEW.status = 'completed' AND NEW.continuation IS NOT NULL AND NEW.response_id IS NULL
            THEN 'turns_response_id_check'
        WHEN NEW.response_expires_at IS NOT NULL AND NEW.response_id IS NULL THEN 'turns_response_expires_at_check'
        WHEN (NEW.idempotency_key IS NULL) <> (NEW.key_scope IS NULL) THEN 'turns_key_scope_check'
        WHEN NEW.beside NOT IN (0, NEW.seq) OR NEW.seq < 1 THEN 'turns_seq_check'
        WHEN NEW.parent_id = NEW.id THEN 'turns_parent_check'
        WHEN NEW.bucket <> bucket_of(NEW.id) THEN 'turns_bucket_check'
    END;
BEGIN
    IF wrong IS NULL AND NEW.parent_id IS NOT NULL AND NOT by_function()
        AND (TG_OP = 'INSERT' OR NEW.parent_id IS DISTINCT FROM OLD.parent_id)
        AND NOT in_history(NEW.project_id, NEW.bucket, NEW.thread_id, NEW.parent_id)
    THEN
        wrong := 'turns_parent_fkey';
    END IF;
    IF wrong IS NOT NULL THEN PERFORM refuse_row(wrong); END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER turns_guard BEFORE INSERT OR UPDATE ON turns FOR EACH ROW EXECUTE FUNCTION turns_guard();

-- A turn's row goes with its thread and not alone: others may continue it, and a head be it.
CREATE FUNCTION turns_keep() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF pg_trigger_depth() = 1 THEN PERFORM refuse_row('turns_keep_check'); END IF;
    RETURN OLD;
END
$function$;
CREATE TRIGGER turns_keep BEFORE DELETE ON turns FOR EACH ROW EXECUTE FUNCTION turns_keep();

-- Records are written by the functions that chain them, and by nobody else.
CREATE FUNCTION audit_guard() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF NOT by_function() THEN
        RAISE EXCEPTION 'Records are appended by append_record_v1, which chains them'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END
$function$;
CREATE TRIGGER audit_guard BEFORE INSERT ON audit_records FOR EACH STATEMENT EXECUTE FUNCTION audit_guard();

CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    RAISE EXCEPTION 'The audit trail is append-only: % of % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END
$function$;
CREATE TRIGGER audit_records_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_records
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_leaves_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_leaves
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_checkpoints_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();

-- Total: 0 for what is no number, and no number beyond what JSON carries exactly.
CREATE FUNCTION token_count(reported json) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
    SELECT CASE WHEN json_typeof(reported) = 'number'
        THEN trunc(greatest(0, least(reported::text::float8, 9007199254740991)))::bigint ELSE 0 END
$function$;
