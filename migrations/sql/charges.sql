-- What a project has spent outside its stored turns: Chat Completions, responses that are not stored, compactions, titles, and
-- turns that broke off before the provider had counted them. One row for each, with counts and no contents.
CREATE TABLE charges (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    at timestamptz NOT NULL,
    kind text NOT NULL CONSTRAINT charges_kind_check CHECK (kind IN ('chat', 'response', 'compaction', 'title', 'cut')),
    model text NOT NULL,
    binding text,
    api_key_id uuid,
    user_id text,
    thread_id uuid,
    usage json NOT NULL,
    CONSTRAINT charges_pkey PRIMARY KEY (project_id, bucket, id)
);
CREATE INDEX charges_at_idx ON charges (project_id, at);
CREATE INDEX charges_user_idx ON charges (project_id, user_id) WHERE user_id IS NOT NULL;
ALTER TABLE charges ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_project ON charges USING (project_id = everthread_project() OR current_user <> 'everthread_service');
