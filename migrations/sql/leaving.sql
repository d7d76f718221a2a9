-- A browser that is signed in to the console. Deleting the row signs it out on every worker.
CREATE TABLE console_sessions (
    project_id uuid NOT NULL,
    id uuid NOT NULL,
    key_id uuid NOT NULL,
    token_hash bytea NOT NULL CONSTRAINT console_sessions_token_hash_check CHECK (octet_length(token_hash) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    CONSTRAINT console_sessions_pkey PRIMARY KEY (project_id, id),
    CONSTRAINT console_sessions_key_fkey FOREIGN KEY (project_id, key_id)
        REFERENCES api_keys (project_id, id) ON DELETE CASCADE,
    CONSTRAINT console_sessions_token_hash_key UNIQUE (token_hash)
);
CREATE INDEX console_sessions_key_idx ON console_sessions (project_id, key_id);
CREATE INDEX console_sessions_expires_idx ON console_sessions (expires_at);
ALTER TABLE console_sessions ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_project ON console_sessions
    USING (project_id = everthread_project() OR current_user <> 'everthread_service');

-- The title of a thread when it was shared.
ALTER TABLE shares ADD COLUMN title text;
