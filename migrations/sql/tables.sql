-- The store's tables. Every row of a thread carries the thread's bucket, so that all of it lies on one shard; every
-- primary and foreign key begins with the project, so that no reference crosses it.
--
-- Primary keys are made after the other indexes of their table. On a table without statistics a whole key and the two
-- columns that all indexes begin with look equally selective, and of equals the planner takes the index made last.
--
-- What a row must be is checked by one trigger a table, and not by CHECKs: those are parsed anew by each statement,
-- which cost more than the row itself (22 microseconds of 31 for a turn). What a value may be is its domain's to say.

CREATE DOMAIN item_origin AS text CONSTRAINT items_origin_check CHECK (VALUE IN ('input', 'output'));
CREATE DOMAIN item_position AS integer CONSTRAINT items_position_check CHECK (VALUE >= 0);
CREATE DOMAIN call_continuation AS text
    CONSTRAINT calls_continuation_check CHECK (VALUE IN ('new', 'chained', 'rebuilt'));
CREATE DOMAIN call_attempt AS integer CONSTRAINT calls_attempt_check CHECK (VALUE >= 1);

-- What is updated and deleted with each turn and each thread is vacuumed when a twentieth of it is dead: the space of what
-- is forgotten comes back, and index entries of turns that have ended go.

CREATE FUNCTION bucket_of(id uuid) RETURNS smallint LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    (((get_byte(uuid_send(id), 14) & 3) << 8) | get_byte(uuid_send(id), 15))::smallint;

CREATE FUNCTION refuse_row(wrong text) RETURNS void LANGUAGE plpgsql AS $function$
BEGIN
    RAISE EXCEPTION 'the row is refused by %', wrong USING
        ERRCODE = CASE WHEN wrong LIKE '%\_fkey' THEN 'foreign_key_violation' ELSE 'check_violation' END,
        CONSTRAINT = wrong;
END
$function$;

-- The functions that open and close turns have looked already at what this says no to. They say so by themselves, and not by a
-- SET in their definition, which takes a superuser.
CREATE FUNCTION by_function() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE RETURN
    coalesce(current_setting('everthread.function', true), '') <> '';

CREATE TABLE projects (
    project_id uuid NOT NULL CONSTRAINT projects_pkey PRIMARY KEY,
    name text NOT NULL CONSTRAINT projects_name_key UNIQUE,
    trail_key bytea NOT NULL,
    retention_days integer CONSTRAINT projects_retention_days_check CHECK (retention_days BETWEEN 1 AND 36500),
    purged_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE api_keys (
    project_id uuid NOT NULL CONSTRAINT api_keys_project_id_fkey REFERENCES projects ON DELETE CASCADE,
    id uuid NOT NULL,
    name text NOT NULL,
    key_hash bytea NOT NULL CONSTRAINT api_keys_key_hash_key UNIQUE,
    hint text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz,
    last_used_at timestamptz,
    CONSTRAINT api_keys_pkey PRIMARY KEY (project_id, id)
);

CREATE TABLE cache_keys (
    id smallint NOT NULL DEFAULT 1 CONSTRAINT cache_keys_id_check CHECK (id = 1),
    key bytea NOT NULL CONSTRAINT cache_keys_key_check CHECK (octet_length(key) = 32),
    CONSTRAINT cache_keys_pkey PRIMARY KEY (id)
);

CREATE TABLE user_keys (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    user_id text NOT NULL,
    key bytea NOT NULL,
    CONSTRAINT user_keys_pkey PRIMARY KEY (project_id, bucket, user_id)
);

CREATE TABLE threads (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    name text,
    title text,
    user_id text,
    metadata jsonb NOT NULL DEFAULT '{}',
    head_turn_id uuid,
    forked_turn_id uuid,
    turn_count integer NOT NULL DEFAULT 0,
    last_seq integer NOT NULL DEFAULT 0,
    chain_seq bigint NOT NULL DEFAULT 0,
    chain_hash bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    trail_key bytea NOT NULL,
    salt bytea,
    archived_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    arrived_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX threads_arrived_idx ON threads (project_id, arrived_at, id);
CREATE INDEX threads_user_idx ON threads (project_id, user_id, arrived_at, id) WHERE user_id IS NOT NULL;
CREATE INDEX threads_forked_turn_idx ON threads (project_id, bucket, forked_turn_id) WHERE forked_turn_id IS NOT NULL;
CREATE INDEX threads_metadata_idx ON threads USING gin (metadata jsonb_path_ops) WHERE metadata <> '{}';
CREATE INDEX threads_title_lexemes_idx ON threads USING gin (title_lexemes_v1(project_id, title))
    WITH (gin_pending_list_limit = 128) WHERE title IS NOT NULL;
ALTER INDEX threads_title_lexemes_idx ALTER COLUMN 1 SET STATISTICS 0;
ALTER TABLE threads ADD CONSTRAINT threads_pkey PRIMARY KEY (project_id, bucket, id);
ALTER TABLE threads ADD CONSTRAINT threads_project_id_fkey
    FOREIGN KEY (project_id) REFERENCES projects ON DELETE CASCADE;

-- Names are apart, by a bucket of their own: their rows are written and deleted with their thread's.
CREATE TABLE thread_names (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    name text NOT NULL,
    thread_id uuid NOT NULL
);
CREATE INDEX thread_names_prefix_idx ON thread_names (project_id, name text_pattern_ops);
ALTER TABLE thread_names ADD CONSTRAINT thread_names_pkey PRIMARY KEY (project_id, bucket, name);

-- When a thread was last spoken in: the one row of a turn that is found by what changes in it.
CREATE TABLE thread_activity (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    thread_id uuid NOT NULL,
    active_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX thread_activity_idx ON thread_activity (project_id, active_at, thread_id);
ALTER TABLE thread_activity ADD CONSTRAINT thread_activity_pkey PRIMARY KEY (project_id, bucket, thread_id);
ALTER TABLE thread_activity ADD CONSTRAINT thread_activity_thread_fkey
    FOREIGN KEY (project_id, bucket, thread_id) REFERENCES threads (project_id, bucket, id) ON DELETE CASCADE;

CREATE TABLE turns (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    thread_id uuid NOT NULL,
    seq integer NOT NULL,
    parent_id uuid,
    copied_from_id uuid,
    status text NOT NULL,
    continuation text,
    model text NOT NULL,
    params json NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    ignored text[] NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    arrived_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    completed_at timestamptz,
    worker_id uuid,
    lease_expires_at timestamptz,
    cancel_requested_at timestamptz,
    beside integer NOT NULL DEFAULT 0,
    api_key_id uuid,
    idempotency_key text,
    key_scope uuid,
    client_left_at timestamptz,
    body_hash bytea,
    salt bytea,
    error_status smallint,
    response json,
    usage json,
    error json,
    incomplete_details json,
    pace json,
    binding text,
    response_id text,
    response_created_at timestamptz,
    response_expires_at timestamptz,
    response_unknown_at timestamptz,
    deleted_at timestamptz
) WITH (autovacuum_vacuum_scale_factor = 0.05);
-- What is always so keeps an index from those who look for a turn by its key: only a condition on that column implies it.
CREATE INDEX turns_arrived_idx ON turns (project_id, arrived_at) WHERE arrived_at IS NOT NULL;
CREATE INDEX turns_copied_idx ON turns (copied_from_id, project_id) WHERE copied_from_id IS NOT NULL;
CREATE INDEX turns_child_idx ON turns (project_id, bucket, parent_id) WHERE parent_id IS NOT NULL;
CREATE UNIQUE INDEX turns_seq_key ON turns (project_id, bucket, thread_id, seq);
-- One that will move its thread's head, and any number beside it.
CREATE UNIQUE INDEX turns_one_active_per_thread ON turns (project_id, bucket, thread_id, beside)
    WHERE status = 'in_progress';
CREATE UNIQUE INDEX turns_idempotency_key ON turns (project_id, bucket, key_scope, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
ALTER TABLE turns ADD CONSTRAINT turns_pkey PRIMARY KEY (project_id, bucket, id);
ALTER TABLE turns ADD CONSTRAINT turns_thread_fkey
    FOREIGN KEY (project_id, bucket, thread_id) REFERENCES threads (project_id, bucket, id) ON DELETE CASCADE;
ALTER TABLE turns ADD CONSTRAINT turns_parent_fkey
    FOREIGN KEY (project_id, bucket, parent_id) REFERENCES turns (project_id, bucket, id);
ALTER TABLE threads ADD CONSTRAINT threads_forked_turn_fkey
    FOREIGN KEY (project_id, bucket, forked_turn_id) REFERENCES turns (project_id, bucket, id);

CREATE TABLE items (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    turn_id uuid NOT NULL,
    position item_position NOT NULL,
    origin item_origin NOT NULL,
    type text NOT NULL,
    item_id text NOT NULL,
    data json NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE UNIQUE INDEX items_item_id_key ON items (item_id, project_id, bucket);
-- Its lexemes stand nowhere else; what is gathered before it is sorted in stays small (kB), and with it the longest wait.
CREATE INDEX items_lexemes_idx ON items USING gin (message_lexemes_v1(project_id, turn_id, data))
    WITH (gin_pending_list_limit = 128) WHERE type = 'message';
-- Statistics of lexemes would read every text of the sample, and no plan hangs on them.
ALTER INDEX items_lexemes_idx ALTER COLUMN 1 SET STATISTICS 0;
ALTER TABLE items ADD CONSTRAINT items_pkey PRIMARY KEY (project_id, bucket, turn_id, position);
ALTER TABLE items ADD CONSTRAINT items_turn_fkey
    FOREIGN KEY (project_id, bucket, turn_id) REFERENCES turns (project_id, bucket, id) ON DELETE CASCADE;

CREATE TABLE calls (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    turn_id uuid NOT NULL,
    attempt call_attempt NOT NULL,
    continuation call_continuation NOT NULL,
    url text NOT NULL,
    frames text[],
    refs integer[] NOT NULL DEFAULT '{}',
    dropped_items integer NOT NULL DEFAULT 0,
    status integer,
    response_id text,
    error json,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    CONSTRAINT calls_pkey PRIMARY KEY (project_id, bucket, turn_id, attempt),
    CONSTRAINT calls_turn_fkey
        FOREIGN KEY (project_id, bucket, turn_id) REFERENCES turns (project_id, bucket, id) ON DELETE CASCADE
) WITH (autovacuum_vacuum_scale_factor = 0.05);

-- What calls of a thread have sent for items of its history: each once, however often it is sent again.
CREATE TABLE pieces (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    thread_id uuid NOT NULL,
    number integer NOT NULL,
    digest bytea NOT NULL,
    sources text[] NOT NULL,
    data text,
    CONSTRAINT pieces_pkey PRIMARY KEY (project_id, bucket, thread_id, number),
    CONSTRAINT pieces_thread_fkey
        FOREIGN KEY (project_id, bucket, thread_id) REFERENCES threads (project_id, bucket, id) ON DELETE CASCADE
) WITH (autovacuum_vacuum_scale_factor = 0.05);

CREATE TABLE waiters (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    thread_id uuid NOT NULL,
    id uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT waiters_pkey PRIMARY KEY (project_id, bucket, thread_id, id),
    CONSTRAINT waiters_thread_fkey
        FOREIGN KEY (project_id, bucket, thread_id) REFERENCES threads (project_id, bucket, id) ON DELETE CASCADE
);

-- No foreign key leads out of the trail: a record outlives what it tells of.
CREATE TABLE audit_records (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    chain_id uuid NOT NULL,
    seq bigint NOT NULL,
    at timestamptz NOT NULL,
    action text NOT NULL,
    turn_id uuid,
    key_id uuid,
    user_digest bytea,
    address_digest bytea,
    detail text,
    content bytea,
    previous bytea NOT NULL,
    hash bytea NOT NULL
);
CREATE INDEX audit_records_at_idx ON audit_records (project_id, at);
ALTER TABLE audit_records ADD CONSTRAINT audit_records_pkey PRIMARY KEY (project_id, bucket, chain_id, seq);

CREATE TABLE audit_leaves (
    project_id uuid NOT NULL,
    position bigint NOT NULL,
    chain_id uuid NOT NULL,
    seq bigint NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT audit_leaves_pkey PRIMARY KEY (project_id, position),
    CONSTRAINT audit_leaves_project_id_chain_id_seq_key UNIQUE (project_id, chain_id, seq)
);

CREATE TABLE audit_checkpoints (
    project_id uuid NOT NULL,
    size bigint NOT NULL,
    at timestamptz NOT NULL,
    root bytea NOT NULL,
    public_key bytea NOT NULL,
    signature bytea NOT NULL,
    CONSTRAINT audit_checkpoints_pkey PRIMARY KEY (project_id, size)
);

CREATE TABLE provider_deletions (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    response_id text NOT NULL,
    binding text NOT NULL,
    tries integer NOT NULL DEFAULT 0,
    next_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    CONSTRAINT provider_deletions_pkey PRIMARY KEY (project_id, bucket, response_id)
);
CREATE INDEX provider_deletions_next_idx ON provider_deletions (binding, next_at);

CREATE TABLE user_purges (
    project_id uuid NOT NULL,
    id uuid NOT NULL,
    user_id text NOT NULL,
    key_id uuid,
    address text,
    threads integer NOT NULL,
    threads_done integer NOT NULL DEFAULT 0 CONSTRAINT user_purges_threads_done_check CHECK (threads_done >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    lease_expires_at timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz,
    CONSTRAINT user_purges_pkey PRIMARY KEY (project_id, id)
);
CREATE INDEX user_purges_unfinished_idx ON user_purges (lease_expires_at) WHERE completed_at IS NULL;
