-- Who is told of what happens, and what each has been told. The audit trail is the outbox: what is told is read from it,
-- up to a record, and the deliveries are written in the transaction that says up to which.

CREATE TABLE webhooks (
    project_id uuid NOT NULL,
    id uuid NOT NULL,
    url text NOT NULL,
    events text[] NOT NULL CONSTRAINT webhooks_events_check CHECK (cardinality(events) > 0),
    description text,
    secret text NOT NULL,
    former_secret text,
    former_until timestamptz,
    paused boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    read_at timestamptz NOT NULL DEFAULT now(),
    read_chain uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    read_seq bigint NOT NULL DEFAULT 0,
    CONSTRAINT webhooks_pkey PRIMARY KEY (project_id, id),
    CONSTRAINT webhooks_former_check CHECK ((former_secret IS NULL) = (former_until IS NULL))
);

CREATE TABLE webhook_deliveries (
    project_id uuid NOT NULL,
    webhook_id uuid NOT NULL,
    chain_id uuid NOT NULL,
    seq bigint NOT NULL,
    type text NOT NULL,
    at timestamptz NOT NULL,
    data json NOT NULL,
    status text NOT NULL DEFAULT 'pending' CONSTRAINT webhook_deliveries_status_check
        CHECK (status IN ('pending', 'delivered', 'failed')),
    attempts integer NOT NULL DEFAULT 0 CONSTRAINT webhook_deliveries_attempts_check CHECK (attempts >= 0),
    next_at timestamptz NOT NULL DEFAULT now(),
    last_status integer,
    last_error text,
    delivered_at timestamptz,
    CONSTRAINT webhook_deliveries_pkey PRIMARY KEY (project_id, webhook_id, chain_id, seq),
    CONSTRAINT webhook_deliveries_delivered_check CHECK ((status = 'delivered') = (delivered_at IS NOT NULL)),
    CONSTRAINT webhook_deliveries_webhook_fkey FOREIGN KEY (project_id, webhook_id)
        REFERENCES webhooks (project_id, id) ON DELETE CASCADE
);
CREATE INDEX webhook_deliveries_next_idx ON webhook_deliveries (project_id, webhook_id, next_at) WHERE status = 'pending';
CREATE INDEX webhook_deliveries_at_idx ON webhook_deliveries (project_id, webhook_id, at);
