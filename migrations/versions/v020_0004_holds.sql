-- Legal holds. A deletion or change of what an active hold covers runs as always, and triggers first copy what would be lost
-- into held_rows. Ordinary reads never look there.
CREATE TABLE holds (
    project_id uuid NOT NULL CONSTRAINT holds_project_id_fkey REFERENCES projects,
    id uuid NOT NULL,
    scope text NOT NULL CONSTRAINT holds_scope_check CHECK (scope IN ('thread', 'user', 'project')),
    thread_id uuid,
    user_id text,
    reason text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    key_id uuid,
    released_at timestamptz,
    released_by uuid,
    release_reason text,
    -- When the cleaner had erased what no other hold covers, and how many rows that were. The user is forgotten with it.
    erased_at timestamptz,
    erased_rows bigint NOT NULL DEFAULT 0,
    CONSTRAINT holds_pkey PRIMARY KEY (project_id, id),
    CONSTRAINT holds_target_check
        CHECK ((scope = 'thread') = (thread_id IS NOT NULL)
            AND ((scope = 'user') = (user_id IS NOT NULL) OR erased_at IS NOT NULL)),
    CONSTRAINT holds_released_check CHECK ((released_at IS NULL) = (release_reason IS NULL)),
    CONSTRAINT holds_erased_check CHECK (erased_rows >= 0 AND (erased_at IS NULL OR released_at IS NOT NULL))
);
CREATE INDEX holds_active_idx ON holds (project_id) WHERE released_at IS NULL;
CREATE INDEX holds_unerased_idx ON holds (released_at) WHERE released_at IS NOT NULL AND erased_at IS NULL;

-- Rows of other tables as they were before they were deleted or changed. Sealed columns stay sealed: json_populate_record
-- gives the row back, which opens as before. `json` keeps the text of documents, and accepts everything that they do.
CREATE TABLE held_rows (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    -- The thread whose history had the row, and its user then. A fork's history includes the turns that it shares. Without a
    -- thread: a row of user_keys.
    thread_id uuid,
    user_id text,
    source text NOT NULL,
    turn_id uuid,
    -- The position, attempt or number of the row in its turn or thread.
    place integer NOT NULL DEFAULT 0,
    -- The primary key of the row in its bucket.
    row_key text NOT NULL,
    kept_at timestamptz NOT NULL DEFAULT now(),
    -- The end of a minimum retention, if one has kept the row.
    keep_until timestamptz,
    data json NOT NULL,
    CONSTRAINT held_rows_pkey PRIMARY KEY (project_id, bucket, id)
);
-- Compressing large contents would let a deletion under a hold take noticeably longer than any other.
ALTER TABLE held_rows ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE INDEX held_rows_thread_idx ON held_rows (project_id, bucket, thread_id, kept_at);
CREATE INDEX held_rows_key_idx ON held_rows (project_id, bucket, thread_id, source, row_key);
CREATE INDEX held_rows_user_idx ON held_rows (project_id, user_id) WHERE user_id IS NOT NULL;
CREATE INDEX held_rows_until_idx ON held_rows (keep_until) WHERE keep_until IS NOT NULL;

-- True if an active hold covers a thread, or a user. Callers have locked the holds of the project before the statement that
-- calls this.
CREATE FUNCTION is_held_v1(project uuid, thread uuid, of_user text) RETURNS boolean LANGUAGE sql STABLE RETURN EXISTS (
    SELECT FROM holds h WHERE h.project_id = project AND h.released_at IS NULL
        AND (h.scope = 'project' OR h.thread_id = thread OR h.user_id = of_user)
);

ALTER TABLE projects
    ADD COLUMN minimum_retention_days integer
        CONSTRAINT projects_minimum_retention_days_check CHECK (minimum_retention_days BETWEEN 1 AND 36500),
    ADD COLUMN minimum_retention_former jsonb NOT NULL DEFAULT '[]',
    ADD CONSTRAINT projects_minimum_retention_check CHECK (retention_days >= minimum_retention_days);

-- Return the minimum retentions of a project, each with the end of the time in which it was set: contents keep the longest
-- one that was set at any time since they were written.
CREATE FUNCTION minimum_retentions_v1(project uuid) RETURNS TABLE (days integer, until timestamptz)
LANGUAGE sql STABLE AS $function$
    SELECT p.minimum_retention_days, 'infinity'::timestamptz FROM projects p
        WHERE p.project_id = project AND p.minimum_retention_days IS NOT NULL
    UNION ALL
    SELECT (f.value->>'days')::integer, (f.value->>'until')::timestamptz
        FROM projects p CROSS JOIN jsonb_array_elements(p.minimum_retention_former) f WHERE p.project_id = project
$function$;

-- Decide if a row of a thread is kept when it is deleted or changed, and until when at least.
--
-- written: the time at which the content arrived.
CREATE FUNCTION kept_v1(
    project uuid, thread uuid, of_user text, written timestamptz, OUT keeps boolean, OUT until timestamptz
) LANGUAGE plpgsql STABLE AS $function$
BEGIN
    SELECT max(written + make_interval(days => m.days)) INTO until FROM minimum_retentions_v1(project) m
        WHERE m.until > written;
    IF until <= now() THEN until := NULL; END IF;
    keeps := until IS NOT NULL OR is_held_v1(project, thread, of_user);
END
$function$;

-- Lock the holds of a project for a deletion or change: until its transaction ends, no hold is placed. Placing one takes the
-- exclusive lock. A statement after this one sees each hold that was placed before, except in a transaction with one
-- snapshot for all statements.
CREATE FUNCTION lock_holds_v1(project uuid) RETURNS void LANGUAGE plpgsql AS $function$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(uuid_hash_extended(project, 2));
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        PERFORM refuse_row('holds_isolation_check');
    END IF;
END
$function$;

-- Return the threads for which a row is kept: its own, and the held forks that share its turn, or any turn of its thread.
CREATE FUNCTION keepers_v1(project uuid, b smallint, thread uuid, turn uuid, written timestamptz)
RETURNS TABLE (keeper uuid, of_user text, until timestamptz) LANGUAGE plpgsql ROWS 1 AS $function$
BEGIN
    PERFORM lock_holds_v1(project);
    RETURN QUERY SELECT th.id, th.user_id, k.until
        FROM threads th CROSS JOIN LATERAL kept_v1(project, th.id, th.user_id, coalesce(written, th.updated_at)) k
        WHERE th.project_id = project AND th.bucket = b AND th.id = thread AND k.keeps;
    PERFORM FROM holds h WHERE h.project_id = project AND h.released_at IS NULL AND h.scope <> 'project';
    IF FOUND THEN
        RETURN QUERY SELECT th.id, th.user_id, NULL::timestamptz FROM threads th
            WHERE th.project_id = project AND th.bucket = b AND th.forked_turn_id IS NOT NULL AND th.id <> thread
                AND EXISTS (
                    SELECT FROM holds h WHERE h.project_id = project AND h.released_at IS NULL
                        AND (h.thread_id = th.id OR h.user_id = th.user_id)
                ) AND CASE WHEN NOT is_forked_from_v1(project, b, th.forked_turn_id, thread) THEN false
                    WHEN turn IS NULL THEN true
                    ELSE EXISTS (SELECT FROM shared_turns_v1(project, b, th.forked_turn_id) s WHERE s.id = turn) END;
    END IF;
END
$function$;

-- True if a fork at a turn shares turns of a thread: the turn's own, or one that this is a fork of. There are few of them,
-- however many turns are shared.
CREATE FUNCTION is_forked_from_v1(project uuid, b smallint, turn uuid, thread uuid) RETURNS boolean
LANGUAGE plpgsql STABLE AS $function$
BEGIN
    RETURN EXISTS (
        WITH RECURSIVE sources AS (
            SELECT t.thread_id FROM turns t WHERE t.project_id = project AND t.bucket = b AND t.id = turn
            UNION
            SELECT t.thread_id FROM sources s
            JOIN threads th ON th.project_id = project AND th.bucket = b AND th.id = s.thread_id
            JOIN turns t ON t.project_id = project AND t.bucket = b AND t.id = th.forked_turn_id
        )
        SELECT FROM sources s WHERE s.thread_id = thread
    );
END
$function$;

-- Return a turn and those before it, of whichever thread.
CREATE FUNCTION shared_turns_v1(project uuid, b smallint, turn uuid) RETURNS TABLE (id uuid, thread_id uuid)
LANGUAGE plpgsql STABLE AS $function$
BEGIN
    RETURN QUERY WITH RECURSIVE shared AS (
        SELECT t.id, t.thread_id, t.parent_id FROM turns t WHERE t.project_id = project AND t.bucket = b AND t.id = turn
        UNION ALL
        SELECT t.id, t.thread_id, t.parent_id FROM shared CROSS JOIN LATERAL (
            SELECT t.id, t.thread_id, t.parent_id FROM turns t
            WHERE t.project_id = project AND t.bucket = b AND t.id = shared.parent_id OFFSET 0
        ) t
    )
    SELECT shared.id, shared.thread_id FROM shared;
END
$function$;

-- Copy a row into held_rows for a thread. A medium is copied once, however many items and pieces refer to it.
CREATE FUNCTION keep_row_v1(
    project uuid, b smallint, thread uuid, of_user text, until timestamptz, from_table text, turn uuid, at_place integer,
    key text, whole json
) RETURNS void LANGUAGE plpgsql AS $function$
BEGIN
    INSERT INTO held_rows (project_id, bucket, thread_id, user_id, source, turn_id, place, row_key, keep_until, data)
        SELECT project, b, thread, of_user, from_table, turn, at_place, key, until, whole
        WHERE from_table <> 'media' OR NOT EXISTS (
            SELECT FROM held_rows h WHERE h.project_id = project AND h.bucket = b AND h.thread_id = thread
                AND h.source = 'media' AND h.row_key = key AND h.user_id IS NOT DISTINCT FROM of_user
                AND coalesce(h.keep_until, '-infinity') >= coalesce(until, '-infinity') AND h.data::text = whole::text
        );
END
$function$;

CREATE FUNCTION keep_medium_v1(project uuid, b smallint, thread uuid, of_user text, until timestamptz, medium uuid)
RETURNS void LANGUAGE plpgsql AS $function$
BEGIN
    PERFORM keep_row_v1(project, b, thread, of_user, until, 'media', NULL, 0, m.id::text, row_to_json(m))
        FROM media m WHERE m.project_id = project AND m.bucket = b AND m.id = medium;
END
$function$;

-- Copy a piece, and the medium that it stands for.
CREATE FUNCTION keep_piece_v1(thread uuid, of_user text, until timestamptz, piece pieces) RETURNS void
LANGUAGE plpgsql AS $function$
BEGIN
    PERFORM keep_row_v1(piece.project_id, piece.bucket, thread, of_user, until, 'pieces', NULL, piece.number,
        piece.thread_id || '/' || piece.number, row_to_json(piece));
    IF piece.media_id IS NOT NULL THEN
        PERFORM keep_medium_v1(piece.project_id, piece.bucket, thread, of_user, until, piece.media_id);
    END IF;
END
$function$;

-- Copy turns with all their rows into held_rows, for a thread whose history has them. Each turn has its end of a minimum
-- retention.
CREATE FUNCTION keep_turns_v1(
    project uuid, b smallint, thread uuid, of_user text, turn_ids uuid[], untils timestamptz[]
) RETURNS void LANGUAGE plpgsql AS $function$
BEGIN
    INSERT INTO held_rows (project_id, bucket, thread_id, user_id, source, turn_id, place, row_key, keep_until, data)
        WITH kept AS MATERIALIZED (SELECT * FROM unnest(turn_ids, untils) AS k (id, until))
        SELECT project, b, thread, of_user, r.source, kept.id, r.place, r.row_key, kept.until, r.data
        FROM kept CROSS JOIN LATERAL (
            SELECT 'turns' AS source, t.seq AS place, t.id::text AS row_key, row_to_json(t) AS data FROM turns t
                WHERE t.project_id = project AND t.bucket = b AND t.id = kept.id
            UNION ALL
            SELECT 'items', i.position, i.turn_id || '/' || i.position, row_to_json(i) FROM items i
                WHERE i.project_id = project AND i.bucket = b AND i.turn_id = kept.id
            UNION ALL
            SELECT 'item_media', i.position, concat_ws('/', i.turn_id, i.position, i.place), row_to_json(i)
                FROM item_media i WHERE i.project_id = project AND i.bucket = b AND i.turn_id = kept.id
            UNION ALL
            SELECT 'calls', c.attempt, c.turn_id || '/' || c.attempt, row_to_json(c) FROM calls c
                WHERE c.project_id = project AND c.bucket = b AND c.turn_id = kept.id
            UNION ALL
            SELECT 'compactions', 0, c.id::text, row_to_json(c) FROM compactions c
                WHERE c.project_id = project AND c.bucket = b AND c.turn_id = kept.id
            UNION ALL
            SELECT 'feedback', 0, f.id::text, row_to_json(f) FROM feedback f
                WHERE f.project_id = project AND f.bucket = b AND f.turn_id = kept.id
        ) AS r;
    PERFORM keep_medium_v1(project, b, thread, of_user, m.until, m.media_id) FROM (
        SELECT i.media_id, max(k.until) AS until FROM unnest(turn_ids, untils) AS k (id, until) JOIN item_media i
            ON i.project_id = project AND i.bucket = b AND i.turn_id = k.id
        GROUP BY i.media_id
    ) AS m;
END
$function$;

-- Copy the whole history of a thread, with the turns that it shares.
CREATE FUNCTION keep_thread_v1(th threads) RETURNS void LANGUAGE plpgsql AS $function$
DECLARE
    turn_ids uuid[];
    untils timestamptz[];
    k record;
BEGIN
    SELECT array_agg(t.id), array_agg(kept.until) INTO turn_ids, untils FROM (
        SELECT t.id, t.arrived_at FROM turns t
            WHERE t.project_id = th.project_id AND t.bucket = th.bucket AND t.thread_id = th.id
        UNION
        SELECT t.id, t.arrived_at FROM shared_turns_v1(th.project_id, th.bucket, th.forked_turn_id) s
            JOIN turns t ON t.project_id = th.project_id AND t.bucket = th.bucket AND t.id = s.id
    ) AS t CROSS JOIN LATERAL kept_v1(th.project_id, th.id, th.user_id, t.arrived_at) kept WHERE kept.keeps;
    PERFORM keep_turns_v1(th.project_id, th.bucket, th.id, th.user_id, turn_ids, untils);
    SELECT * INTO k FROM kept_v1(th.project_id, th.id, th.user_id, th.updated_at);
    IF NOT k.keeps THEN RETURN; END IF;
    PERFORM keep_row_v1(th.project_id, th.bucket, th.id, th.user_id, k.until, 'threads', NULL, 0, th.id::text,
        row_to_json(th));
    -- Its own pieces, and those that calls of the shared turns refer to.
    PERFORM keep_piece_v1(th.id, th.user_id, k.until, p) FROM pieces p
        WHERE p.project_id = th.project_id AND p.bucket = th.bucket AND p.thread_id = th.id;
    PERFORM keep_piece_v1(th.id, th.user_id, k.until, p) FROM (
        SELECT t.thread_id, range_agg(int4range(c.refs[place], c.refs[place + 1], '[]')) AS numbers
        FROM unnest(turn_ids) AS kept (id)
        JOIN turns t ON t.project_id = th.project_id AND t.bucket = th.bucket AND t.id = kept.id AND t.thread_id <> th.id
        JOIN calls c ON c.project_id = th.project_id AND c.bucket = th.bucket AND c.turn_id = kept.id
        CROSS JOIN generate_series(1, cardinality(c.refs), 2) AS place
        WHERE c.refs[place] BETWEEN 1 AND c.refs[place + 1] GROUP BY t.thread_id
    ) AS sent JOIN pieces p ON p.project_id = th.project_id AND p.bucket = th.bucket AND p.thread_id = sent.thread_id
        AND p.number <@ sent.numbers;
    PERFORM keep_row_v1(th.project_id, th.bucket, th.id, th.user_id, k.until, 'shares', s.turn_id, 0, s.id::text,
            row_to_json(s))
        FROM shares s WHERE s.project_id = th.project_id AND s.bucket = th.bucket AND s.thread_id = th.id;
END
$function$;

-- True if a change does nothing but seal what lay open, in a project that encrypts its contents: see
-- app/sealing/encrypting.py. The rows are compared as JSON, because a json column has no other comparison.
CREATE FUNCTION only_seals_v1(project uuid, former json, changed json) RETURNS boolean LANGUAGE plpgsql STABLE AS $function$
BEGIN
    PERFORM FROM projects p WHERE p.project_id = project AND p.encrypted_at IS NOT NULL;
    IF NOT FOUND THEN RETURN false; END IF;
    RETURN NOT EXISTS (
        SELECT FROM json_each(former) AS f JOIN json_each(changed) AS c USING (key)
        -- The size is computed later; digests are keyed when what is beside them is sealed.
        WHERE f.value::text <> c.value::text AND key NOT IN ('size', 'digest', 'body_hash') AND NOT (
            CASE WHEN key = 'salt' THEN length(c.value::text) > length(f.value::text)
            WHEN key = 'frames' THEN NOT starts_with(f.value::text, '["\u0001et1:')
                AND starts_with(c.value::text, '["\u0001et1:')
            ELSE NOT is_sealed_v1(f.value::text) AND is_sealed_v1(c.value::text) END
        )
    ) AND EXISTS (
        SELECT FROM json_each(former) AS f JOIN json_each(changed) AS c USING (key)
        WHERE f.value::text <> c.value::text AND key NOT IN ('size', 'digest', 'body_hash')
    );
END
$function$;

-- True for the sealed form of a text, of a document, and of metadata, as JSON: see
-- app/sealing/columns.py.
CREATE FUNCTION is_sealed_v1(stored text) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN
    starts_with(stored, '"\u0001et1:') OR starts_with(stored, '["') OR starts_with(stored, '{"": ["');

-- The trigger functions look in the schema first: a temporary table of the session cannot stand in for one of theirs.
CREATE FUNCTION keep_thread() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
DECLARE
    former threads := OLD;
    k record;
BEGIN
    IF TG_OP = 'DELETE' THEN
        -- open_turn_v3 takes back a thread that has no record yet: nobody has heard of it.
        IF OLD.chain_seq = 0 AND OLD.title IS NULL AND OLD.metadata = '{}' AND NOT EXISTS (
            SELECT FROM turns t WHERE t.project_id = OLD.project_id AND t.bucket = OLD.bucket AND t.thread_id = OLD.id
        ) THEN
            RETURN OLD;
        END IF;
        PERFORM lock_holds_v1(OLD.project_id);
        -- A long thread has many turns to lock and to look at one by one.
        PERFORM FROM minimum_retentions_v1(OLD.project_id);
        IF FOUND OR is_held_v1(OLD.project_id, OLD.id, OLD.user_id) THEN
            -- No feedback is added behind this copy: its foreign key locks the turn.
            PERFORM FROM turns t WHERE t.project_id = OLD.project_id AND t.bucket = OLD.bucket AND t.thread_id = OLD.id
                ORDER BY t.id FOR UPDATE;
            PERFORM keep_thread_v1(former);
        END IF;
        RETURN OLD;
    END IF;
    PERFORM lock_holds_v1(OLD.project_id);
    PERFORM FROM holds h WHERE h.project_id = OLD.project_id AND h.released_at IS NULL AND h.user_id = OLD.user_id
        AND NEW.user_id IS DISTINCT FROM OLD.user_id;
    IF FOUND THEN
        -- The hold does not cover the thread any more: what it has had is kept now.
        PERFORM keep_thread_v1(former);
        RETURN NEW;
    END IF;
    SELECT * INTO k FROM kept_v1(OLD.project_id, OLD.id, OLD.user_id, OLD.updated_at);
    IF k.keeps AND NOT only_seals_v1(OLD.project_id, row_to_json(OLD), row_to_json(NEW)) THEN
        PERFORM keep_row_v1(OLD.project_id, OLD.bucket, OLD.id, OLD.user_id, k.until, 'threads', NULL, 0, OLD.id::text,
            row_to_json(OLD));
    END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER threads_keep BEFORE DELETE OR UPDATE OF name, title, user_id, metadata, preset, salt, trail_key
    ON threads FOR EACH ROW EXECUTE FUNCTION keep_thread();

-- A turn's row is only deleted with its thread, which is kept before.
CREATE FUNCTION keep_turn() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
DECLARE
    k record;
BEGIN
    IF NEW.thread_id <> OLD.thread_id THEN
        -- A fork inherits it from a thread that is about to be deleted.
        PERFORM lock_holds_v1(OLD.project_id);
        PERFORM keep_turns_v1(OLD.project_id, OLD.bucket, th.id, th.user_id, ARRAY[OLD.id], NULL) FROM threads th
            WHERE th.project_id = OLD.project_id AND th.bucket = OLD.bucket AND th.id = OLD.thread_id
                AND is_held_v1(OLD.project_id, th.id, th.user_id);
        RETURN NEW;
    END IF;
    FOR k IN SELECT * FROM keepers_v1(OLD.project_id, OLD.bucket, OLD.thread_id, OLD.id, OLD.arrived_at)
        WHERE NOT only_seals_v1(OLD.project_id, row_to_json(OLD), row_to_json(NEW))
    LOOP
        PERFORM keep_row_v1(OLD.project_id, OLD.bucket, k.keeper, k.of_user, k.until, 'turns', OLD.id, OLD.seq,
            OLD.id::text, row_to_json(OLD));
    END LOOP;
    RETURN NEW;
END
$function$;
-- A turn that ends loses nothing.
CREATE TRIGGER turns_keep_row BEFORE UPDATE OF
    thread_id, seq, parent_id, deleted_at, model, params, metadata, ignored, salt, body_hash, response, usage, cost, error,
    incomplete_details, pace, context
    ON turns FOR EACH ROW WHEN (OLD.completed_at IS NOT NULL OR NEW.completed_at IS NULL) EXECUTE FUNCTION keep_turn();

-- Refuse the deletion of a turn without its thread, whatever trigger or function runs it: the rows of the turn would go with
-- it, and not be kept.
CREATE FUNCTION keep_turn_whole() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
BEGIN
    PERFORM FROM threads th WHERE th.project_id = OLD.project_id AND th.bucket = OLD.bucket AND th.id = OLD.thread_id;
    IF FOUND THEN PERFORM refuse_row('turns_keep_check'); END IF;
    RETURN OLD;
END
$function$;
CREATE TRIGGER turns_keep_whole BEFORE DELETE ON turns FOR EACH ROW EXECUTE FUNCTION keep_turn_whole();

-- The age of contents decides on their minimum retention: nobody makes them older. The time of a thread's last change stays,
-- because the clocks of two workers may differ.
CREATE FUNCTION keep_age() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
BEGIN
    PERFORM FROM minimum_retentions_v1(OLD.project_id);
    IF NOT FOUND THEN RETURN NEW; END IF;
    IF TG_TABLE_NAME = 'turns' THEN PERFORM refuse_row('turns_arrived_check'); END IF;
    NEW.updated_at := OLD.updated_at;
    RETURN NEW;
END
$function$;
CREATE TRIGGER turns_keep_age BEFORE UPDATE OF arrived_at ON turns FOR EACH ROW
    WHEN (NEW.arrived_at < OLD.arrived_at) EXECUTE FUNCTION keep_age();
CREATE TRIGGER threads_keep_age BEFORE UPDATE OF updated_at ON threads FOR EACH ROW
    WHEN (NEW.updated_at < OLD.updated_at) EXECUTE FUNCTION keep_age();

-- Keep a row of a turn. The turn is not found if its thread is being deleted, which has kept everything.
-- Arguments: the columns that tell the row from others of its turn.
CREATE FUNCTION keep_of_turn() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
DECLARE
    its record;
    k record;
    whole json;
BEGIN
    SELECT t.thread_id, t.arrived_at INTO its FROM turns t
        WHERE t.project_id = OLD.project_id AND t.bucket = OLD.bucket AND t.id = OLD.turn_id;
    IF FOUND THEN
        FOR k IN SELECT * FROM keepers_v1(OLD.project_id, OLD.bucket, its.thread_id, OLD.turn_id, its.arrived_at) LOOP
            whole := coalesce(whole, row_to_json(OLD));
            IF TG_OP = 'UPDATE' THEN
                EXIT WHEN only_seals_v1(OLD.project_id, whole, row_to_json(NEW));
            END IF;
            PERFORM keep_row_v1(OLD.project_id, OLD.bucket, k.keeper, k.of_user, k.until, TG_TABLE_NAME, OLD.turn_id,
                CASE WHEN TG_ARGV[0] <> 'id' THEN (whole->>TG_ARGV[0])::integer ELSE 0 END,
                CASE WHEN TG_ARGV[0] = 'id' THEN whole->>'id'
                    ELSE concat_ws('/', OLD.turn_id, whole->>TG_ARGV[0], whole->>TG_ARGV[1]) END,
                whole);
            IF TG_TABLE_NAME = 'item_media' THEN
                PERFORM keep_medium_v1(OLD.project_id, OLD.bucket, k.keeper, k.of_user, k.until, OLD.media_id);
            END IF;
        END LOOP;
    END IF;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER items_keep BEFORE DELETE OR UPDATE OF turn_id, position, origin, type, item_id, data
    ON items FOR EACH ROW EXECUTE FUNCTION keep_of_turn('position');
CREATE TRIGGER calls_keep BEFORE DELETE OR UPDATE OF turn_id, attempt, url, frames, refs, error
    ON calls FOR EACH ROW EXECUTE FUNCTION keep_of_turn('attempt');
CREATE TRIGGER item_media_keep BEFORE DELETE OR UPDATE
    ON item_media FOR EACH ROW EXECUTE FUNCTION keep_of_turn('position', 'place');
CREATE TRIGGER compactions_keep BEFORE DELETE ON compactions FOR EACH ROW EXECUTE FUNCTION keep_of_turn('id');
-- A compaction without a text is being made, or is tried again.
CREATE TRIGGER compactions_keep_text BEFORE UPDATE OF turn_id, text, kept_items ON compactions FOR EACH ROW
    WHEN (OLD.text IS NOT NULL) EXECUTE FUNCTION keep_of_turn('id');
CREATE TRIGGER feedback_keep BEFORE DELETE OR UPDATE ON feedback FOR EACH ROW EXECUTE FUNCTION keep_of_turn('id');

CREATE FUNCTION keep_share() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
DECLARE
    k record;
BEGIN
    FOR k IN SELECT * FROM keepers_v1(OLD.project_id, OLD.bucket, OLD.thread_id, OLD.turn_id, OLD.created_at)
        WHERE keeper = OLD.thread_id
    LOOP
        IF TG_OP = 'UPDATE' THEN
            EXIT WHEN only_seals_v1(OLD.project_id, row_to_json(OLD), row_to_json(NEW));
        END IF;
        PERFORM keep_row_v1(OLD.project_id, OLD.bucket, k.keeper, k.of_user, k.until, 'shares', OLD.turn_id, 0, OLD.id::text,
            row_to_json(OLD));
    END LOOP;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER shares_keep BEFORE DELETE OR UPDATE ON shares FOR EACH ROW EXECUTE FUNCTION keep_share();

CREATE FUNCTION keep_piece() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
DECLARE
    former pieces := OLD;
    k record;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        -- A fork that takes over a piece seals the same text for its own place, in the transaction that has made the row.
        IF NEW.digest = OLD.digest AND NEW.data IS NOT NULL AND NEW.sources = OLD.sources
            AND OLD.xmin = pg_current_xact_id()::xid
        THEN
            RETURN NEW;
        END IF;
    END IF;
    FOR k IN SELECT * FROM keepers_v1(OLD.project_id, OLD.bucket, OLD.thread_id, NULL, NULL) LOOP
        IF TG_OP = 'UPDATE' THEN
            EXIT WHEN only_seals_v1(OLD.project_id, row_to_json(OLD), row_to_json(NEW));
        END IF;
        PERFORM keep_piece_v1(k.keeper, k.of_user, k.until, former);
    END LOOP;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER pieces_keep BEFORE DELETE OR UPDATE OF digest, sources, data, media_id
    ON pieces FOR EACH ROW EXECUTE FUNCTION keep_piece();

-- Media are kept with the item or the piece that refers to them. This keeps one that is overwritten, or that nothing refers
-- to any more.
CREATE FUNCTION keep_medium() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
DECLARE
    k record;
BEGIN
    FOR k IN SELECT * FROM keepers_v1(OLD.project_id, OLD.bucket, OLD.thread_id, NULL, NULL) LOOP
        IF TG_OP = 'UPDATE' THEN
            EXIT WHEN only_seals_v1(OLD.project_id, row_to_json(OLD), row_to_json(NEW));
        END IF;
        PERFORM keep_row_v1(OLD.project_id, OLD.bucket, k.keeper, k.of_user, k.until, 'media', NULL, 0, OLD.id::text,
            row_to_json(OLD));
    END LOOP;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER media_keep BEFORE DELETE OR UPDATE ON media FOR EACH ROW EXECUTE FUNCTION keep_medium();

-- Keep the key that the trail names a held user with: for the user's or the project's hold, and for each held thread of the
-- user.
CREATE FUNCTION keep_user_key() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
BEGIN
    PERFORM lock_holds_v1(OLD.project_id);
    INSERT INTO held_rows (project_id, bucket, thread_id, user_id, source, row_key, data)
        SELECT OLD.project_id, OLD.bucket, of_thread.id, OLD.user_id, 'user_keys', OLD.user_id, row_to_json(OLD)
        FROM (
            SELECT NULL::uuid AS id WHERE is_held_v1(OLD.project_id, NULL, OLD.user_id)
            UNION
            SELECT h.thread_id FROM holds h
            WHERE h.project_id = OLD.project_id AND h.released_at IS NULL AND h.scope = 'thread' AND (EXISTS (
                SELECT FROM threads th WHERE th.project_id = OLD.project_id AND th.bucket = bucket_of(h.thread_id)
                    AND th.id = h.thread_id AND th.user_id = OLD.user_id
            ) OR EXISTS (
                SELECT FROM held_rows r WHERE r.project_id = OLD.project_id AND r.bucket = bucket_of(h.thread_id)
                    AND r.thread_id = h.thread_id AND r.user_id = OLD.user_id
            ))
        ) AS of_thread;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER user_keys_keep BEFORE DELETE OR UPDATE ON user_keys FOR EACH ROW EXECUTE FUNCTION keep_user_key();

-- TRUNCATE fires no trigger for rows.
CREATE FUNCTION refuse_truncate() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
BEGIN
    LOCK TABLE holds IN SHARE MODE;
    PERFORM FROM holds h WHERE h.released_at IS NULL LIMIT 1;
    IF FOUND THEN PERFORM refuse_row('holds_truncate_check'); END IF;
    PERFORM FROM projects p WHERE p.minimum_retention_days IS NOT NULL OR p.minimum_retention_former <> '[]' LIMIT 1;
    IF FOUND THEN PERFORM refuse_row('minimum_retention_truncate_check'); END IF;
    RETURN NULL;
END
$function$;
CREATE TRIGGER threads_truncate BEFORE TRUNCATE ON threads FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER turns_truncate BEFORE TRUNCATE ON turns FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER items_truncate BEFORE TRUNCATE ON items FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER calls_truncate BEFORE TRUNCATE ON calls FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER item_media_truncate BEFORE TRUNCATE ON item_media FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER media_truncate BEFORE TRUNCATE ON media FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER pieces_truncate BEFORE TRUNCATE ON pieces FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER compactions_truncate BEFORE TRUNCATE ON compactions FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER feedback_truncate BEFORE TRUNCATE ON feedback FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER shares_truncate BEFORE TRUNCATE ON shares FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER user_keys_truncate BEFORE TRUNCATE ON user_keys FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER data_keys_truncate BEFORE TRUNCATE ON data_keys FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER holds_truncate BEFORE TRUNCATE ON holds FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER held_rows_truncate BEFORE TRUNCATE ON held_rows FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();

-- A hold is released once, and otherwise stays as it was placed. It is never deleted.
CREATE FUNCTION holds_guard() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
DECLARE
    changing text[] := CASE WHEN OLD.released_at IS NULL THEN '{released_at,released_by,release_reason}'::text[]
        WHEN OLD.erased_at IS NULL THEN '{erased_at,erased_rows,user_id}'::text[] ELSE '{}'::text[] END;
BEGIN
    IF TG_OP = 'DELETE' THEN PERFORM refuse_row('holds_keep_check'); END IF;
    IF to_jsonb(NEW) - changing = to_jsonb(OLD) - changing AND NEW.erased_rows >= OLD.erased_rows
        AND (NEW.user_id IS NOT DISTINCT FROM OLD.user_id OR NEW.user_id IS NULL AND NEW.erased_at IS NOT NULL)
        OR only_seals_v1(OLD.project_id, row_to_json(OLD), row_to_json(NEW))
    THEN
        RETURN NEW;
    END IF;
    PERFORM refuse_row('holds_keep_check');
END
$function$;
CREATE TRIGGER holds_guard BEFORE UPDATE OR DELETE ON holds FOR EACH ROW EXECUTE FUNCTION holds_guard();

-- What is held stays as it is, until no active hold covers it and its minimum retention has ended.
CREATE FUNCTION held_rows_guard() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NOT coalesce(only_seals_v1(OLD.project_id, OLD.data, NEW.data), false) OR (
            NEW.project_id, NEW.bucket, NEW.id, NEW.thread_id, NEW.user_id, NEW.source, NEW.turn_id, NEW.place, NEW.row_key,
            NEW.kept_at, NEW.keep_until
        ) IS DISTINCT FROM (
            OLD.project_id, OLD.bucket, OLD.id, OLD.thread_id, OLD.user_id, OLD.source, OLD.turn_id, OLD.place, OLD.row_key,
            OLD.kept_at, OLD.keep_until
        ) THEN
            PERFORM refuse_row('held_rows_keep_check');
        END IF;
        RETURN NEW;
    END IF;
    PERFORM lock_holds_v1(OLD.project_id);
    IF OLD.keep_until > now() OR is_held_v1(OLD.project_id, OLD.thread_id, OLD.user_id) THEN
        PERFORM refuse_row('held_rows_keep_check');
    END IF;
    RETURN OLD;
END
$function$;
CREATE TRIGGER held_rows_guard BEFORE UPDATE OR DELETE ON held_rows FOR EACH ROW EXECUTE FUNCTION held_rows_guard();

-- The key of a project with an active hold is not destroyed.
CREATE FUNCTION keep_key() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
BEGIN
    PERFORM lock_holds_v1(OLD.project_id);
    PERFORM FROM holds h WHERE h.project_id = OLD.project_id AND h.released_at IS NULL;
    IF FOUND THEN PERFORM refuse_row('holds_key_check'); END IF;
    PERFORM FROM minimum_retentions_v1(OLD.project_id) m WHERE EXISTS (
        SELECT FROM turns t WHERE t.project_id = OLD.project_id AND t.arrived_at < m.until
            AND t.arrived_at > now() - make_interval(days => m.days)
    );
    IF FOUND OR EXISTS (SELECT FROM held_rows r WHERE r.project_id = OLD.project_id AND r.keep_until > now()) THEN
        PERFORM refuse_row('minimum_retention_key_check');
    END IF;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER data_keys_keep BEFORE DELETE OR UPDATE OF project_id, number ON data_keys FOR EACH ROW EXECUTE FUNCTION keep_key();
CREATE TRIGGER projects_keep_key BEFORE UPDATE OF key_destroyed_at ON projects
    FOR EACH ROW WHEN (OLD.key_destroyed_at IS NULL) EXECUTE FUNCTION keep_key();

-- A minimum retention that is lowered or removed stays in force for the contents written before. One that is raised covers
-- what is there: no deletion is under way that has not seen it.
CREATE FUNCTION projects_minimum_retention() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    NEW.minimum_retention_former := OLD.minimum_retention_former;
    IF NEW.minimum_retention_days > coalesce(OLD.minimum_retention_days, 0) THEN
        PERFORM pg_advisory_xact_lock(uuid_hash_extended(OLD.project_id, 2));
    ELSIF OLD.minimum_retention_days > coalesce(NEW.minimum_retention_days, 0) THEN
        SELECT coalesce(jsonb_agg(f.value), '[]') || jsonb_build_object(
                'days', OLD.minimum_retention_days, 'until', clock_timestamp()
            ) INTO NEW.minimum_retention_former
            FROM jsonb_array_elements(OLD.minimum_retention_former) f
            WHERE (f.value->>'until')::timestamptz + make_interval(days => (f.value->>'days')::integer) > now();
    END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER projects_minimum_retention BEFORE UPDATE OF minimum_retention_days, minimum_retention_former ON projects
    FOR EACH ROW EXECUTE FUNCTION projects_minimum_retention();
