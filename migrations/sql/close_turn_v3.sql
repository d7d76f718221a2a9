-- Close a turn with all that it leaves: its outcome, its output, its calls, and its records, in one
-- call on its thread's shard. It names the state that it leaves: a turn that somebody else has closed stays as it
-- is, and NULL comes back. The thread's row is locked before the turn's, as by everybody: who deletes a thread would
-- wait for its turn else, and the turn for its thread.
CREATE FUNCTION close_turn_v3(
    project uuid, b smallint, thread uuid, turn uuid,
    status_ text, continuation_ text, response_ text, usage_ text, error_ text, incomplete_details_ text,
    binding_ text, response_id_ text, response_created_at_ timestamptz, response_expires_at_ timestamptz,
    error_status_ smallint, pace_ text, context_ text,
    first_position integer, types text[], item_ids text[], data_ text[],
    continuations text[], urls text[], frames_ text[], frame_counts integer[], refs_ integer[],
    piece_digests bytea[], piece_sources text[], piece_data text[], dropped integer[], statuses integer[], response_ids text[],
    errors text[], began timestamptz[], ended timestamptz[],
    api_key uuid, address text, actions text[], details text[], contents bytea[]
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
    said := set_config('everthread.function', 'close_turn_v3', true);
    UPDATE turns t SET
        status = status_, continuation = continuation_, response = response_::json, usage = usage_::json,
        error = error_::json, incomplete_details = incomplete_details_::json, binding = binding_,
        response_id = response_id_, response_created_at = response_created_at_,
        response_expires_at = response_expires_at_, completed_at = at_, lease_expires_at = NULL,
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
    IF cardinality(piece_digests) > 0 THEN
        SELECT coalesce(max(p.number), 0) INTO last_piece FROM pieces p
            WHERE p.project_id = project AND p.bucket = b AND p.thread_id = thread_id_;
        FOR i IN 1..cardinality(piece_digests) LOOP
            sources_ := ARRAY(SELECT json_array_elements_text(piece_sources[i]::json));
            INSERT INTO pieces (project_id, bucket, thread_id, number, digest, sources, data)
                VALUES (project, b, thread_id_, last_piece + i, piece_digests[i], sources_, piece_data[i]);
        END LOOP;
        -- New pieces were counted down from -1.
        refs_ := ARRAY(
            SELECT CASE WHEN r.ref < 0 THEN last_piece - r.ref ELSE r.ref END
            FROM unnest(refs_) WITH ORDINALITY AS r (ref, place) ORDER BY r.place
        );
    END IF;
    FOR i IN 1..cardinality(frame_counts) LOOP
        INSERT INTO calls (
            project_id, bucket, turn_id, attempt, continuation, url, frames, refs, dropped_items, status, response_id,
            error, started_at, finished_at
        ) VALUES (
            project, b, turn, i, continuations[i], urls[i],
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
    -- One that ran beside another moves the head only where it still goes on from it.
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
