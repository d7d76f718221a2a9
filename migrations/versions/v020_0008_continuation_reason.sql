-- The reason why a turn is new, chained or rebuilt, and why its response id is of no use any more. The columns are text
-- without a constraint of their own: a column of a domain with one would rewrite the tables.
ALTER TABLE turns ADD COLUMN continuation_reason text, ADD COLUMN response_unknown_reason text;
ALTER TABLE calls ADD COLUMN continuation_reason text;

CREATE OR REPLACE FUNCTION turns_guard() RETURNS trigger LANGUAGE plpgsql AS $function$
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
        -- Only the pair is checked: a further reason to rebuild needs no migration.
        WHEN NEW.continuation_reason IS NOT NULL AND NEW.continuation IS DISTINCT FROM CASE NEW.continuation_reason
            WHEN 'first_turn' THEN 'new' WHEN 'live_response_id' THEN 'chained' ELSE 'rebuilt' END
            THEN 'turns_continuation_reason_check'
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

-- As open_turn_v3, and returns why the parent's response id is of no use any more, if it is not.
CREATE FUNCTION open_turn_v4(
    project uuid, b smallint,
    thread uuid,              -- the thread; NULL where it is found by a turn of it, whichever it is
    after_turn uuid,          -- that turn
    by_name text,             -- the name that the thread must have
    of_user text,             -- whose the thread must be; NULL: anybody's
    new_thread boolean,       -- whether this turn makes the thread
    new_user text, new_trail_key bytea, new_salt bytea,
    turn uuid, parent uuid, first boolean,
    beside_ text,             -- never, always, or if_needed: where the thread is busy, or the parent not its head
    ticket uuid,
    model_ text, params_ text, metadata_ text, ignored_ text[],
    worker uuid, lease_seconds float8, api_key uuid, idem_key text, body_hash_ bytea, salt_ bytea,
    types text[], item_ids text[], data_ text[],
    address text, created_content bytea, opened_content bytea,
    media_ text,              -- of the items, as keep_media_v1 takes them
    OUT outcome text, OUT thread_id_ uuid, OUT parent_id_ uuid, OUT created_at_ timestamptz, OUT parent_lost text
) LANGUAGE plpgsql AS $function$
DECLARE
    said text;  -- An assignment is no statement of its own, as PERFORM is.
    at_ timestamptz;
    th record;
    of_thread uuid;
    is_beside boolean := beside_ = 'always';
    chain bigint;
    before bytea;
    after bytea;
    who bytea;
    whence bytea;
    placed_content bytea;
BEGIN
    thread_id_ := thread;
    IF after_turn IS NOT NULL THEN
        SELECT t.thread_id INTO thread_id_ FROM turns t
            WHERE t.project_id = project AND t.bucket = b AND t.id = after_turn AND t.deleted_at IS NULL
                AND (thread IS NULL OR t.thread_id = thread);
    END IF;
    IF new_thread THEN
        at_ := clock_timestamp();
        INSERT INTO threads (project_id, bucket, id, salt, user_id, trail_key, created_at, updated_at, arrived_at)
            SELECT project, b, thread, new_salt, new_user, coalesce(new_trail_key, p.trail_key), at_, at_, at_
                FROM projects p WHERE p.project_id = project;
        INSERT INTO thread_activity (project_id, bucket, thread_id, active_at) VALUES (project, b, thread, at_);
    END IF;
    SELECT t.name, t.user_id, t.head_turn_id, t.last_seq, t.chain_seq, t.chain_hash, t.trail_key INTO th FROM threads t
        WHERE t.project_id = project AND t.bucket = b AND t.id = thread_id_ AND (of_user IS NULL OR t.user_id = of_user)
        FOR NO KEY UPDATE;
    IF NOT FOUND OR th.name IS DISTINCT FROM coalesce(by_name, th.name) THEN
        outcome := 'no_thread';
        RETURN;
    END IF;
    at_ := coalesce(at_, clock_timestamp());  -- Not before the lock: a chain's moments go upwards.

    parent_id_ := CASE WHEN NOT first THEN coalesce(parent, th.head_turn_id) END;
    IF parent_id_ IS NOT NULL THEN
        SELECT t.thread_id, CASE WHEN t.response_unknown_at IS NOT NULL THEN
                coalesce(t.response_unknown_reason, 'response_id_dropped') END
            INTO of_thread, parent_lost FROM turns t
            WHERE t.project_id = project AND t.bucket = b AND t.id = parent_id_
                AND (t.deleted_at IS NULL OR parent IS NULL);
        IF NOT FOUND OR (of_thread <> thread_id_ AND NOT in_history(project, b, thread_id_, parent_id_)) THEN
            outcome := 'no_parent';
            RETURN;
        END IF;
    END IF;
    IF beside_ = 'if_needed' THEN
        is_beside := parent_id_ IS DISTINCT FROM th.head_turn_id OR EXISTS (
            SELECT FROM turns t WHERE t.project_id = project AND t.bucket = b AND t.thread_id = thread_id_
                AND t.beside = 0 AND t.status = 'in_progress'
        );
    END IF;
    IF ticket IS NOT NULL THEN
        PERFORM FROM waiters w WHERE w.project_id = project AND w.bucket = b AND w.thread_id = thread_id_
            AND w.id < ticket AND w.expires_at > at_;
        IF FOUND THEN
            outcome := 'busy';
            RETURN;
        END IF;
    END IF;

    said := set_config('everthread.function', 'open_turn_v4', true);
    INSERT INTO turns (
        project_id, bucket, id, thread_id, seq, beside, parent_id, status, model, params, metadata, ignored,
        created_at, arrived_at, worker_id, lease_expires_at, api_key_id, idempotency_key, key_scope, body_hash, salt
    ) VALUES (
        project, b, turn, thread_id_, th.last_seq + 1, CASE WHEN is_beside THEN th.last_seq + 1 ELSE 0 END,
        parent_id_, 'in_progress', model_, params_::json, metadata_::jsonb, ignored_, at_, at_, worker,
        at_ + lease_seconds * interval '1 second', api_key, idem_key,
        CASE WHEN idem_key IS NOT NULL THEN CASE WHEN new_thread THEN project ELSE thread_id_ END END,
        body_hash_, salt_
    ) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        IF new_thread THEN
            -- Nobody has heard of it.
            DELETE FROM threads t WHERE t.project_id = project AND t.bucket = b AND t.id = thread;
        END IF;
        outcome := 'busy';
        said := set_config('everthread.function', '', true);
        RETURN;
    END IF;
    FOR i IN 1..cardinality(types) LOOP
        INSERT INTO items (project_id, bucket, turn_id, position, origin, type, item_id, data)
            VALUES (project, b, turn, i - 1, 'input', types[i], item_ids[i], data_[i]::json);
    END LOOP;
    IF media_ IS NOT NULL THEN
        PERFORM keep_media_v1(project, b, thread_id_, turn, media_);
    END IF;

    chain := th.chain_seq;
    before := th.chain_hash;
    who := trail_digest_v1(th.trail_key, 'user', th.user_id);
    whence := trail_digest_v1(th.trail_key, 'address', address);
    IF new_thread THEN
        chain := chain + 1;
        after := record_hash_v2(project, thread_id_, chain, at_, 'thread.created', NULL, api_key, who, whence, NULL,
            created_content, before);
        INSERT INTO audit_records (project_id, bucket, chain_id, seq, at, action, key_id, user_digest, address_digest,
                content, previous, hash)
            VALUES (project, b, thread_id_, chain, at_, 'thread.created', api_key, who, whence, created_content,
                before, after);
        before := after;
    END IF;
    -- The list of fields ("placed", 2) of app/trail/contents.py.
    placed_content := sha256(opened_content || convert_to('["placed",2,' || (th.last_seq + 1) || ','
        || CASE WHEN is_beside THEN th.last_seq + 1 ELSE 0 END || ','
        || coalesce('"' || parent_id_ || '"', 'null') || ']', 'UTF8'));
    chain := chain + 1;
    after := record_hash_v2(project, thread_id_, chain, at_, 'turn.opened', turn, api_key, who, whence, NULL,
        placed_content, before);
    INSERT INTO audit_records (project_id, bucket, chain_id, seq, at, action, turn_id, key_id, user_digest,
            address_digest, content, previous, hash)
        VALUES (project, b, thread_id_, chain, at_, 'turn.opened', turn, api_key, who, whence, placed_content, before,
            after);
    UPDATE threads t SET last_seq = th.last_seq + 1, chain_seq = chain, chain_hash = after
        WHERE t.project_id = project AND t.bucket = b AND t.id = thread_id_;
    said := set_config('everthread.function', '', true);
    outcome := 'opened';
    created_at_ := at_;
END
$function$;

-- As close_turn_v3, with the reasons for continuations.
CREATE FUNCTION close_turn_v4(
    project uuid, b smallint, thread uuid, turn uuid,
    status_ text, continuation_ text, continuation_reason_ text, response_ text, usage_ text, cost_ text, error_ text,
    incomplete_details_ text,
    binding_ text, response_id_ text, response_created_at_ timestamptz, response_expires_at_ timestamptz,
    error_status_ smallint, pace_ text, context_ text,
    first_position integer, types text[], item_ids text[], data_ text[],
    continuations text[], continuation_reasons text[], urls text[], frames_ text[], frame_counts integer[], refs_ integer[],
    piece_digests bytea[], piece_sources text[], piece_data text[], dropped integer[], statuses integer[], response_ids text[],
    errors text[], began timestamptz[], ended timestamptz[],
    api_key uuid, address text, actions text[], details text[], contents bytea[],
    media_ text, piece_media uuid[]
) RETURNS timestamptz LANGUAGE plpgsql AS $function$
DECLARE
    said text;  -- An assignment is no statement of its own, as PERFORM is.
    at_ timestamptz;
    thread_id_ uuid := thread;
    closed record;
    th record;
    last_piece integer;
    sources_ text[];
    first_frame integer := 1;
    first_ref integer := 1;
    chain bigint;
    before bytea;
    after bytea;
    who bytea;
    whence bytea;
BEGIN
    IF thread_id_ IS NULL THEN
        SELECT t.thread_id INTO thread_id_ FROM turns t
            WHERE t.project_id = project AND t.bucket = b AND t.id = turn;
    END IF;
    SELECT t.user_id, t.head_turn_id, t.chain_seq, t.chain_hash, t.trail_key INTO th FROM threads t
        WHERE t.project_id = project AND t.bucket = b AND t.id = thread_id_ FOR NO KEY UPDATE;
    at_ := clock_timestamp();  -- Not before the lock: a chain's moments go upwards.
    said := set_config('everthread.function', 'close_turn_v4', true);
    UPDATE turns t SET
        status = status_, continuation = continuation_, continuation_reason = continuation_reason_,
        response = response_::json, usage = usage_::json, cost = cost_::json, error = error_::json,
        incomplete_details = incomplete_details_::json, binding = binding_, response_id = response_id_,
        response_created_at = response_created_at_, response_expires_at = response_expires_at_, completed_at = at_,
        lease_expires_at = NULL,
        error_status = error_status_, pace = pace_::json, context = context_::json
        WHERE t.project_id = project AND t.bucket = b AND t.id = turn AND t.completed_at IS NULL
        RETURNING t.beside, t.parent_id INTO closed;
    IF NOT FOUND THEN
        said := set_config('everthread.function', '', true);
        RETURN NULL;
    END IF;
    FOR i IN 1..cardinality(types) LOOP
        INSERT INTO items (project_id, bucket, turn_id, position, origin, type, item_id, data)
            VALUES (project, b, turn, first_position + i - 1, 'output', types[i], item_ids[i], data_[i]::json);
    END LOOP;
    IF media_ IS NOT NULL THEN
        PERFORM keep_media_v1(project, b, thread_id_, turn, media_);
    END IF;
    IF cardinality(piece_digests) > 0 THEN
        SELECT coalesce(max(p.number), 0) INTO last_piece FROM pieces p
            WHERE p.project_id = project AND p.bucket = b AND p.thread_id = thread_id_;
        FOR i IN 1..cardinality(piece_digests) LOOP
            sources_ := ARRAY(SELECT json_array_elements_text(piece_sources[i]::json));
            INSERT INTO pieces (project_id, bucket, thread_id, number, digest, sources, data, media_id)
                VALUES (project, b, thread_id_, last_piece + i, piece_digests[i], sources_, piece_data[i],
                    piece_media[i]);
        END LOOP;
        -- Without those of items and summaries that were deleted while the turn ran, in a history that a fork shares.
        UPDATE pieces p SET data = NULL, media_id = NULL, sources = '{}', digest = ''
            WHERE p.project_id = project AND p.bucket = b AND p.thread_id = thread_id_ AND p.number > last_piece
                AND EXISTS (
                    SELECT FROM unnest(p.sources) AS s (source_id)
                    WHERE NOT EXISTS (
                        SELECT FROM items i WHERE i.item_id = s.source_id AND i.project_id = project AND i.bucket = b
                    ) AND NOT EXISTS (
                        SELECT FROM compactions c WHERE c.project_id = project AND c.bucket = b
                            AND c.id = CASE WHEN s.source_id ~ '^cmp_[0-9a-f]{32}$' THEN substr(s.source_id, 5)::uuid END
                    )
                );
        -- New pieces were counted down from -1.
        refs_ := ARRAY(
            SELECT CASE WHEN r.ref < 0 THEN last_piece - r.ref ELSE r.ref END
            FROM unnest(refs_) WITH ORDINALITY AS r (ref, place) ORDER BY r.place
        );
    END IF;
    FOR i IN 1..cardinality(frame_counts) LOOP
        INSERT INTO calls (
            project_id, bucket, turn_id, attempt, continuation, continuation_reason, url, frames, refs, dropped_items,
            status, response_id, error, started_at, finished_at
        ) VALUES (
            project, b, turn, i, continuations[i], continuation_reasons[i], urls[i],
            frames_[first_frame : first_frame + frame_counts[i] - 1],
            refs_[first_ref : first_ref + 2 * frame_counts[i] - 3],
            dropped[i], statuses[i], response_ids[i], errors[i]::json, began[i], ended[i]
        );
        first_frame := first_frame + frame_counts[i];
        first_ref := first_ref + 2 * frame_counts[i] - 2;
    END LOOP;

    chain := th.chain_seq;
    before := th.chain_hash;
    who := trail_digest_v1(th.trail_key, 'user', th.user_id);
    whence := trail_digest_v1(th.trail_key, 'address', address);
    FOR i IN 1..cardinality(actions) LOOP
        chain := chain + 1;
        after := record_hash_v2(project, thread_id_, chain, at_, actions[i], turn, api_key, who, whence, details[i],
            contents[i], before);
        INSERT INTO audit_records (project_id, bucket, chain_id, seq, at, action, turn_id, key_id, user_digest,
                address_digest, detail, content, previous, hash)
            VALUES (project, b, thread_id_, chain, at_, actions[i], turn, api_key, who, whence, details[i], contents[i],
                before, after);
        before := after;
    END LOOP;
    -- A turn that ran beside another moves the head only if it still continues from it.
    UPDATE threads t SET
        head_turn_id = CASE
            WHEN status_ = 'failed' OR (closed.beside <> 0 AND t.head_turn_id IS DISTINCT FROM closed.parent_id)
            THEN t.head_turn_id ELSE turn END,
        turn_count = t.turn_count + 1, updated_at = at_, chain_seq = chain, chain_hash = before
        WHERE t.project_id = project AND t.bucket = b AND t.id = thread_id_;
    UPDATE thread_activity a SET active_at = at_
        WHERE a.project_id = project AND a.bucket = b AND a.thread_id = thread_id_;
    said := set_config('everthread.function', '', true);
    RETURN at_;
END
$function$;
