-- Projects that are many: what a key may do and for how long, what a project asks for, and its provider accounts.

ALTER TABLE projects
    ADD COLUMN operates boolean NOT NULL DEFAULT false,
    ADD COLUMN archived_at timestamptz,
    ADD COLUMN settings jsonb NOT NULL DEFAULT '{}';
UPDATE projects SET operates = true WHERE name = 'default';

-- A key that is there, or that the release before makes, may do what it could: everything, in its project.
ALTER TABLE api_keys
    ADD COLUMN scopes text[] NOT NULL DEFAULT '{read,write,audit,admin}'
        CONSTRAINT api_keys_scopes_check CHECK (scopes <@ '{read,write,audit,admin}' AND scopes <> '{}'),
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN limits jsonb NOT NULL DEFAULT '{}';

-- A project's own key, sealed by the service's master key: what is sealed for the project is sealed with this one.
CREATE TABLE data_keys (
    project_id uuid NOT NULL CONSTRAINT data_keys_project_id_fkey REFERENCES projects ON DELETE CASCADE,
    number smallint NOT NULL CONSTRAINT data_keys_number_check CHECK (number >= 1),
    master_id bytea NOT NULL,
    wrapped bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT data_keys_pkey PRIMARY KEY (project_id, number)
);

CREATE TABLE accounts (
    project_id uuid NOT NULL CONSTRAINT accounts_project_id_fkey REFERENCES projects ON DELETE CASCADE,
    id uuid NOT NULL,
    name text NOT NULL,
    position integer NOT NULL,
    weight integer NOT NULL CONSTRAINT accounts_weight_check CHECK (weight BETWEEN 1 AND 1000),
    base_url text NOT NULL,
    binding text NOT NULL,
    api_key bytea NOT NULL,
    hint text NOT NULL,
    models text[] NOT NULL DEFAULT '{}',
    shared boolean NOT NULL DEFAULT false,
    disabled boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT accounts_name_key UNIQUE (project_id, name),
    CONSTRAINT accounts_pkey PRIMARY KEY (project_id, id)
);
CREATE INDEX accounts_shared_idx ON accounts (position) WHERE shared;
CREATE INDEX accounts_binding_idx ON accounts (binding);
