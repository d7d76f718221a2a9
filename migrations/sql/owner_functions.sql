-- What is found by an index that does not go together with a policy: by words, by metadata, by the beginning of a name.
-- These functions are their owner's, who is behind no wall, and filter by project themselves: whoever is behind the wall
-- asks for the project of the transaction, or gets nothing. See app/db/wall.py.

CREATE FUNCTION may_see_v1(project uuid) RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE RETURN
    current_setting('role') <> 'everthread_service' OR coalesce(project = everthread_project(), false);

-- Messages that may match, the newest first.
CREATE FUNCTION found_messages_v1(
    project uuid, asked tsquery, here_before timestamptz, since timestamptz, until timestamptz, of_user text,
    thread uuid,
    older_than uuid,  -- the lowest turn that has been looked at
    most integer
) RETURNS TABLE (bucket smallint, id uuid, "position" integer, size integer)
-- A bitmap that does not fit is lossy: then the texts themselves would be taken apart, one by one.
LANGUAGE plpgsql STABLE SECURITY DEFINER SET work_mem = '256MB' AS $function$
BEGIN
    RETURN QUERY SELECT i.bucket, i.turn_id, i.position::integer, pg_column_size(i.data) FROM items i
    WHERE may_see_v1(project) AND i.project_id = project AND i.type = 'message'
        AND message_lexemes_v1(i.project_id, i.turn_id, i.data) @@ asked AND (older_than IS NULL OR i.turn_id < older_than)
        AND (here_before IS NULL AND since IS NULL AND until IS NULL AND of_user IS NULL AND thread IS NULL OR EXISTS (
            SELECT FROM turns t JOIN threads th ON th.project_id = project AND th.bucket = i.bucket AND th.id = t.thread_id
            WHERE t.project_id = project AND t.bucket = i.bucket AND t.id = i.turn_id
                AND (here_before IS NULL OR t.arrived_at < here_before)
                AND (since IS NULL OR t.created_at >= since) AND (until IS NULL OR t.created_at < until)
                AND (of_user IS NULL OR th.user_id = of_user) AND (thread IS NULL OR th.id = thread)
        ))
    ORDER BY i.turn_id DESC, i.position DESC LIMIT most;
END
$function$;

-- Titles that may match, of the newest threads first.
CREATE FUNCTION found_titles_v1(
    project uuid, asked tsquery, here_before timestamptz, since timestamptz, until timestamptz, of_user text,
    thread uuid, most integer
) RETURNS TABLE (id uuid, title text) LANGUAGE plpgsql STABLE SECURITY DEFINER AS $function$
BEGIN
    RETURN QUERY SELECT th.id, th.title FROM threads th
    WHERE may_see_v1(project) AND th.project_id = project AND th.title IS NOT NULL
        AND title_lexemes_v1(th.project_id, th.title) @@ asked
        AND (here_before IS NULL OR th.arrived_at < here_before)
        AND (since IS NULL OR th.created_at >= since) AND (until IS NULL OR th.created_at < until)
        AND (of_user IS NULL OR th.user_id = of_user) AND (thread IS NULL OR th.id = thread)
    ORDER BY th.id DESC LIMIT most;
END
$function$;

-- A list of threads. Its statement is put together of what is asked for, so that each has the plan that is its own.
CREATE FUNCTION listed_threads_v1(
    project uuid, of_user text,
    name_begins text,
    pairs jsonb, sealed_pairs jsonb,  -- of the metadata: threads have the ones, or the others
    is_archived boolean, is_busy boolean,
    created_after timestamptz, created_before timestamptz, updated_after timestamptz, updated_before timestamptz,
    by_activity boolean,              -- ordered by when it was last spoken in, and not by when it came to be here
    downwards boolean,                -- NULL: in no order
    from_moment timestamptz, from_id uuid,  -- the place in that order that the list begins behind
    until timestamptz,                -- where it ends
    most integer
) RETURNS TABLE (bucket smallint, id uuid) LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 20 AS $function$
DECLARE
    place text := CASE WHEN by_activity THEN 'a.active_at, a.thread_id' ELSE 'th.arrived_at, th.id' END;
    moment text := split_part(place, ',', 1);
BEGIN
    IF NOT may_see_v1(project) THEN RETURN; END IF;
    RETURN QUERY EXECUTE concat(
        'SELECT th.bucket, th.id FROM threads th ',
        CASE WHEN by_activity THEN 'JOIN thread_activity a ON a.project_id = $1 AND a.bucket = th.bucket AND a.thread_id = th.id ' END,
        'WHERE th.project_id = $1',
        CASE WHEN of_user IS NOT NULL THEN ' AND th.user_id = $2' END,
        CASE WHEN name_begins IS NOT NULL THEN
            ' AND th.name LIKE $3 AND th.id IN (SELECT thread_id FROM thread_names WHERE project_id = $1 AND name LIKE $3)' END,
        CASE WHEN pairs IS NOT NULL THEN $$ AND th.metadata <> '{}' AND (th.metadata @> $4$$ END,
        CASE WHEN sealed_pairs IS NOT NULL THEN ' OR th.metadata @> $5' END,
        CASE WHEN pairs IS NOT NULL THEN ')' END,
        CASE is_archived WHEN true THEN ' AND th.archived_at IS NOT NULL' WHEN false THEN ' AND th.archived_at IS NULL' END,
        CASE WHEN is_busy IS NOT NULL THEN concat(
            CASE WHEN NOT is_busy THEN ' AND NOT' ELSE ' AND' END,
            ' EXISTS (SELECT FROM turns t WHERE t.project_id = $1 AND t.bucket = th.bucket AND t.thread_id = th.id',
            $$ AND t.status = 'in_progress')$$) END,
        CASE WHEN created_after IS NOT NULL THEN ' AND th.created_at > $6' END,
        CASE WHEN created_before IS NOT NULL THEN ' AND th.created_at < $7' END,
        CASE WHEN updated_after IS NOT NULL THEN ' AND th.updated_at > $8' END,
        CASE WHEN updated_before IS NOT NULL THEN ' AND th.updated_at < $9' END,
        CASE WHEN from_moment IS NOT NULL THEN
            format(' AND (%s) %s ($10, $11)', place, CASE WHEN downwards THEN '<' ELSE '>' END) END,
        CASE WHEN until IS NOT NULL THEN format(' AND %s < $12', moment) END,
        CASE downwards WHEN true THEN format(' ORDER BY %s DESC', replace(place, ',', ' DESC,'))
            WHEN false THEN ' ORDER BY ' || place END,
        ' LIMIT $13'
    ) USING project, of_user, replace(replace(replace(name_begins, '\', '\\'), '%', '\%'), '_', '\_') || '%', pairs,
        sealed_pairs, created_after, created_before, updated_after, updated_before, from_moment, from_id, until, most;
END
$function$;
