-- How turns have gone, hour by hour, in sums that each worker adds its own to: how many ended in which way, and in how much
-- time. Statistics, and no record: what a worker has counted and not written yet goes with it.
CREATE TABLE turn_hours (
    project_id uuid NOT NULL CONSTRAINT turn_hours_project_id_fkey REFERENCES projects ON DELETE CASCADE,
    hour timestamptz NOT NULL,
    model text NOT NULL,
    outcome text NOT NULL,
    turns bigint NOT NULL CONSTRAINT turn_hours_turns_check CHECK (turns >= 0),
    durations bigint[] NOT NULL,
    first_words bigint[] NOT NULL,
    CONSTRAINT turn_hours_pkey PRIMARY KEY (project_id, hour, model, outcome)
);
ALTER TABLE turn_hours ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_project ON turn_hours USING (project_id = everthread_project() OR current_user <> 'everthread_service');

-- Two arrays of one length, place by place.
CREATE FUNCTION added_v1(one bigint[], other bigint[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN (
    SELECT array_agg(coalesce(a, 0) + coalesce(b, 0) ORDER BY place)
    FROM unnest(one, other) WITH ORDINALITY AS each (a, b, place)
);
