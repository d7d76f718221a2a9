-- Open a turn. Its record covers the place that the turn gets here: its number, its parent, and whether it runs
-- beside another turn. For an end user, the thread must be the user's own.
--
-- The thread's row is locked, so that its head is what the last turn left. Two indexes decide then whether the turn
-- may be: another that moves the head is in progress, or one with its Idempotency-Key is there. Zero rows inserted is
-- the answer 'busy', and not an error. Whether a name is still this thread's is looked at here, and so is the place
-- of those who wait.
--
-- outcome: opened, busy, no_thread, no_parent.
CREATE FUNCTION open_turn_v3(
    project uuid, b smallint,
    thread uuid,              -- the thread; NULL where it is found by a turn of it, whichever it is
    after_turn uuid,          -- that turn
    by_name text,             -- the name that the thread must have
    of_user text,             -- whose the thread must be; NULL: anybody's
    new_thread boolean,       -- whether this turn makes the thread
    new_user text, new_trail_key bytea,
    turn uuid, parent uuid, first boolean,
    beside_ text,             -- never, always, or if_needed: where the thread is busy, or the parent not its head
    ticket uuid,
    model_ text, params_ text, metadata_ text, ignored_ text[],
    worker uuid, lease_seconds float8, api_key uuid, idem_key text, body_hash_ bytea, salt_ bytea,
    types text[], item_ids text[], data_ text[],
    address text, created_content bytea, opened_content bytea,
    OUT outcome text, OUT thread_id_ uuid, OUT parent_id_ uuid, OUT created_at_ timestamptz, OUT parent_forgotten boolean
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
            SELECT project, b, thread, salt_, new_user, coalesce(new_trail_key, p.trail_key), at_, at_, at_
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
        SELECT t.thread_id, t.response_unknown_at IS NOT NULL INTO of_thread, parent_forgotten FROM turns t
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

    said := set_config('everthread.function', 'open_turn_v3', true);
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
