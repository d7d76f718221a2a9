-- What the model was sent: how much, of which window, and what was left out of it.
ALTER TABLE turns ADD COLUMN context json;
-- What the item counts by Qwen's vocabulary; NULL until somebody has counted it.
ALTER TABLE items ADD COLUMN tokens integer;

-- The beginning of a branch in few words: from its first turn to turn_id, for all branches that go through it.
CREATE TABLE compactions (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    turn_id uuid NOT NULL,
    previous_id uuid,
    status text NOT NULL CONSTRAINT compactions_status_check CHECK (status IN ('running', 'ready', 'failed')),
    worker_id uuid,
    lease_expires_at timestamptz,
    attempts integer NOT NULL DEFAULT 1 CONSTRAINT compactions_attempts_check CHECK (attempts >= 1),
    model text NOT NULL,
    text text,
    kept_items text[] NOT NULL DEFAULT '{}',
    covered_turns integer NOT NULL CONSTRAINT compactions_covered_turns_check CHECK (covered_turns >= 1),
    covered_tokens bigint NOT NULL,
    tokens integer,
    calls json,
    usage json,
    error json,
    salt bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz,
    CONSTRAINT compactions_pkey PRIMARY KEY (project_id, bucket, id),
    -- One for each turn: of two workers, one makes it.
    CONSTRAINT compactions_turn_key UNIQUE (project_id, bucket, turn_id),
    CONSTRAINT compactions_turn_fkey
        FOREIGN KEY (project_id, bucket, turn_id) REFERENCES turns (project_id, bucket, id) ON DELETE CASCADE,
    CONSTRAINT compactions_text_check CHECK ((status = 'ready') = (text IS NOT NULL)),
    CONSTRAINT compactions_lease_check CHECK ((status = 'running') = (lease_expires_at IS NOT NULL)),
    CONSTRAINT compactions_error_check CHECK (status <> 'failed' OR error IS NOT NULL)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX compactions_running_idx ON compactions (lease_expires_at) WHERE status = 'running';

-- Whether the provider is asked to cache this project's contexts; NULL: as the service is set.
ALTER TABLE projects ADD COLUMN session_cache text
    CONSTRAINT projects_session_cache_check CHECK (session_cache IN ('off', 'on', 'auto'));

-- What the provider's answers have shown of its models.
CREATE TABLE learnt_models (
    binding text NOT NULL,
    model text NOT NULL,
    window_tokens bigint CONSTRAINT learnt_models_window_tokens_check CHECK (window_tokens > 0),
    tokens_per_counted float8 CONSTRAINT learnt_models_tokens_per_counted_check CHECK (tokens_per_counted > 0),
    learnt_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT learnt_models_pkey PRIMARY KEY (binding, model)
);
