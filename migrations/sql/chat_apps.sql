-- What chat apps need of a thread: how long it lives, what people think of its answers, and who may read it without a key.

ALTER TABLE threads ADD COLUMN ttl_seconds integer;
ALTER TABLE threads ADD COLUMN expires_at timestamptz;
ALTER TABLE threads ADD CONSTRAINT threads_ttl_check CHECK ((ttl_seconds IS NULL) = (expires_at IS NULL)) NOT VALID;

CREATE TABLE feedback (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    turn_id uuid NOT NULL,
    score double precision CONSTRAINT feedback_score_check CHECK (score BETWEEN -1 AND 1),
    label text CONSTRAINT feedback_label_check CHECK (char_length(label) BETWEEN 1 AND 64),
    comment text CONSTRAINT feedback_comment_check CHECK (char_length(comment) BETWEEN 1 AND 4000),
    user_id text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT feedback_pkey PRIMARY KEY (project_id, bucket, id),
    CONSTRAINT feedback_something_check CHECK (num_nonnulls(score, label, comment) > 0),
    CONSTRAINT feedback_turn_fkey FOREIGN KEY (project_id, bucket, turn_id)
        REFERENCES turns (project_id, bucket, id) ON DELETE CASCADE
);
CREATE INDEX feedback_turn_idx ON feedback (project_id, bucket, turn_id);
CREATE INDEX feedback_created_idx ON feedback (project_id, created_at, id);

CREATE TABLE shares (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    thread_id uuid NOT NULL,
    turn_id uuid NOT NULL,
    token_hash bytea NOT NULL CONSTRAINT shares_token_hash_check CHECK (octet_length(token_hash) = 32),
    expires_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT shares_pkey PRIMARY KEY (project_id, bucket, id),
    CONSTRAINT shares_thread_fkey FOREIGN KEY (project_id, bucket, thread_id)
        REFERENCES threads (project_id, bucket, id) ON DELETE CASCADE,
    CONSTRAINT shares_turn_fkey FOREIGN KEY (project_id, bucket, turn_id)
        REFERENCES turns (project_id, bucket, id) ON DELETE CASCADE
);
CREATE INDEX shares_thread_idx ON shares (project_id, bucket, thread_id);
CREATE INDEX shares_turn_idx ON shares (project_id, bucket, turn_id);
CREATE INDEX shares_token_idx ON shares (bucket, token_hash);
