-- The audit trail, version 2: records carry the version of the lists of fields that their contents are hashed by
-- (app/trail/contents.py). The canonical JSON is the same otherwise, and so is the way records are chained.

ALTER TABLE audit_records ADD COLUMN version smallint NOT NULL DEFAULT 1;
ALTER TABLE audit_records ALTER COLUMN version SET DEFAULT 2;

-- Salts of the digests in records. That of a turn is set once its content is gone, for what is left of it.
ALTER TABLE turns ADD COLUMN left_salt bytea;
ALTER TABLE feedback ADD COLUMN salt bytea;
ALTER TABLE shares ADD COLUMN salt bytea;
ALTER TABLE api_keys ADD COLUMN salt bytea;
ALTER TABLE projects ADD COLUMN salt bytea;

-- STABLE, by convert_to and to_char: as such it is inlined into the expression that calls it.
CREATE FUNCTION record_hash_v2(
    project uuid, chain uuid, seq bigint, at timestamptz, action text, turn uuid, key uuid, user_digest bytea,
    address_digest bytea, detail text, content bytea, previous bytea
) RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE AS $function$
    SELECT sha256(convert_to(
        '{"action":' || to_json(action)
        || ',"actor":{"address":' || coalesce('"address_' || encode(address_digest, 'hex') || '"', 'null')
        || ',"key":' || coalesce('"key_' || encode(uuid_send(key), 'hex') || '"', 'null')
        || ',"project":"' || encode(uuid_send(project), 'hex')
        || '","user":' || coalesce('"user_' || encode(user_digest, 'hex') || '"', 'null')
        || '},"at":"' || to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        || '","content":' || coalesce('"' || encode(content, 'hex') || '"', 'null')
        || ',"detail":' || coalesce(to_json(detail)::text, 'null')
        || ',"id":"audit_' || encode(uuid_send(chain), 'hex') || '_' || seq
        || '","object":"audit.record","previous":"' || encode(previous, 'hex')
        || '","seq":' || seq
        || ',"thread":' || CASE WHEN chain = project THEN 'null'
            ELSE '"thread_' || encode(uuid_send(chain), 'hex') || '"' END
        || ',"turn":' || coalesce('"turn_' || encode(uuid_send(turn), 'hex') || '"', 'null')
        || ',"version":2}',
        'UTF8'
    ))
$function$;

-- Append records to a chain in their order, in the transaction of the change that they tell of. A thread's row is
-- locked by then and holds the chain's end; that of the project's own chain is looked up, one writer at a time.
CREATE FUNCTION append_records_v2(
    p_project uuid, p_bucket smallint, p_chain uuid, p_user_digest bytea, p_key uuid, p_address text,
    p_actions text[], p_turns uuid[], p_details text[], p_contents bytea[]
) RETURNS void LANGUAGE plpgsql AS $function$
DECLARE
    chain bigint;
    before bytea;
    after bytea;
    naming_key bytea;
    of_thread boolean := false;
    who bytea;
    whence bytea;
    moment timestamptz;
    arrived timestamptz;
BEGIN
    PERFORM set_config('everthread.function', 'append_records_v2', true);
    IF p_chain <> p_project THEN
        SELECT t.chain_seq, t.chain_hash, t.trail_key, trail_digest_v1(t.trail_key, 'user', t.user_id),
                CASE WHEN t.chain_seq = 0 THEN t.arrived_at END
            INTO chain, before, naming_key, who, arrived
            FROM threads t WHERE t.project_id = p_project AND t.bucket = p_bucket AND t.id = p_chain FOR NO KEY UPDATE;
        of_thread := FOUND;
        who := coalesce(who, p_user_digest);
    ELSE
        PERFORM pg_advisory_xact_lock(uuid_hash_extended(p_chain, 0));
        SELECT p.trail_key, p_user_digest INTO naming_key, who FROM projects p WHERE p.project_id = p_project;
    END IF;
    IF coalesce(chain, 0) = 0 THEN
        -- A thread that comes back under its id goes on with its chain.
        SELECT r.seq, r.hash INTO chain, before FROM audit_records r
            WHERE r.project_id = p_project AND r.bucket = p_bucket AND r.chain_id = p_chain ORDER BY r.seq DESC LIMIT 1;
    END IF;
    chain := coalesce(chain, 0);
    before := coalesce(before, decode(repeat('00', 32), 'hex'));
    whence := trail_digest_v1(naming_key, 'address', p_address);
    FOR i IN 1..cardinality(p_actions) LOOP
        chain := chain + 1;
        -- A thread's first record has the moment that the thread is listed by: it outlives the thread.
        moment := coalesce(arrived, clock_timestamp());
        arrived := NULL;
        after := record_hash_v2(p_project, p_chain, chain, moment, p_actions[i], p_turns[i], p_key, who,
            whence, p_details[i], p_contents[i], before);
        INSERT INTO audit_records (
            project_id, bucket, chain_id, seq, at, action, turn_id, key_id, user_digest, address_digest, detail,
            content, previous, hash
        ) VALUES (
            p_project, p_bucket, p_chain, chain, moment, p_actions[i], p_turns[i], p_key, who,
            whence, p_details[i], p_contents[i], before, after
        );
        before := after;
    END LOOP;
    IF of_thread THEN
        UPDATE threads t SET chain_seq = chain, chain_hash = before
            WHERE t.project_id = p_project AND t.bucket = p_bucket AND t.id = p_chain;
    END IF;
    PERFORM set_config('everthread.function', '', true);
END
$function$;
ALTER FUNCTION append_records_v2 SET enable_sort = off;
