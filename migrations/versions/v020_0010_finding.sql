-- Return the conditions that filters set on a thread `th` of the project $1. $2: the filters. Only those given are
-- conditions, so that each combination gets its own plan. Each condition begins with AND.
CREATE FUNCTION thread_conditions_v1(filters jsonb) RETURNS text LANGUAGE sql IMMUTABLE RETURN concat(
    CASE WHEN filters ? 'user' THEN $$ AND th.user_id = $2->>'user'$$ END,
    CASE WHEN filters ? 'user_begins' THEN $$ AND th.user_id LIKE $2->>'user_begins'$$ END,
    CASE WHEN filters ? 'name_begins' THEN
        $$ AND th.name LIKE $2->>'name_begins' AND (th.bucket, th.id) IN (SELECT bucket_of(thread_id), thread_id
            FROM thread_names WHERE project_id = $1 AND name LIKE $2->>'name_begins')$$ END,
    -- Threads have the pairs as they are, or sealed.
    CASE WHEN filters ? 'pairs' THEN $$ AND th.metadata <> '{}' AND (th.metadata @> ($2->'pairs')$$ END,
    CASE WHEN filters ? 'sealed_pairs' THEN $$ OR th.metadata @> ($2->'sealed_pairs')$$ END,
    CASE WHEN filters ? 'pairs' THEN ')' END,
    CASE filters->>'archived'
        WHEN 'true' THEN ' AND th.archived_at IS NOT NULL' WHEN 'false' THEN ' AND th.archived_at IS NULL' END,
    CASE WHEN filters ? 'busy' THEN concat(
        CASE filters->>'busy' WHEN 'true' THEN ' AND' ELSE ' AND NOT' END,
        ' EXISTS (SELECT FROM turns t WHERE t.project_id = $1 AND t.bucket = th.bucket AND t.thread_id = th.id',
        $$ AND t.status = 'in_progress')$$) END,
    CASE WHEN filters ? 'created_after' THEN $$ AND th.created_at > ($2->>'created_after')::timestamptz$$ END,
    CASE WHEN filters ? 'created_before' THEN $$ AND th.created_at < ($2->>'created_before')::timestamptz$$ END,
    CASE WHEN filters ? 'updated_after' THEN $$ AND th.updated_at > ($2->>'updated_after')::timestamptz$$ END,
    CASE WHEN filters ? 'updated_before' THEN $$ AND th.updated_at < ($2->>'updated_before')::timestamptz$$ END
);

-- Return the condition that filters set on the last turn of a thread `th`, or NULL.
CREATE FUNCTION last_turn_condition_v1(filters jsonb) RETURNS text LANGUAGE sql IMMUTABLE RETURN
    CASE WHEN filters ?| ARRAY['last_turn', 'model'] THEN concat(
        'EXISTS (SELECT FROM turns l WHERE l.project_id = $1 AND l.bucket = th.bucket AND l.thread_id = th.id',
        ' AND l.seq = th.last_seq',
        CASE WHEN filters ? 'last_turn' THEN $$ AND l.status = $2->>'last_turn'$$ END,
        CASE WHEN filters ? 'model' THEN $$ AND l.model = $2->>'model'$$ END,
        ')'
    ) END;

-- Return the conditions that filters set on the time of the last turn `a` of a thread: ` AND …`, or nothing.
CREATE FUNCTION activity_conditions_v1(filters jsonb) RETURNS text LANGUAGE sql IMMUTABLE RETURN concat(
    CASE WHEN filters ? 'active_after' THEN $$ AND a.active_at > ($2->>'active_after')::timestamptz$$ END,
    CASE WHEN filters ? 'active_before' THEN $$ AND a.active_at < ($2->>'active_before')::timestamptz$$ END
);

-- Return all conditions that filters set on a thread `th` of the project $1.
CREATE FUNCTION all_thread_conditions_v1(filters jsonb) RETURNS text LANGUAGE sql IMMUTABLE RETURN concat(
    thread_conditions_v1(filters),
    CASE WHEN activity_conditions_v1(filters) <> '' THEN concat(
        ' AND EXISTS (SELECT FROM thread_activity a',
        ' WHERE a.project_id = $1 AND a.bucket = th.bucket AND a.thread_id = th.id',
        activity_conditions_v1(filters), ')') END,
    ' AND ' || last_turn_condition_v1(filters)
);

-- Return candidates of a search: the newest messages that have the lexemes, not yet ranked. Filters are checked for a
-- limited number of the newest.
CREATE FUNCTION found_messages_v2(
    project uuid, filters jsonb, asked tsquery, here_before timestamptz, since timestamptz, until timestamptz,
    thread uuid,
    older_than uuid,  -- the lowest turn that has been looked at
    most integer,
    looked_at integer
) RETURNS TABLE (bucket smallint, id uuid, "position" integer, size integer)
-- A bitmap that does not fit into work_mem is lossy, and each text would have to be parsed again.
LANGUAGE plpgsql STABLE SET work_mem = '256MB' AS $function$
DECLARE
    conditions text := concat(
        CASE WHEN here_before IS NOT NULL THEN ' AND t.arrived_at < $4' END,
        CASE WHEN since IS NOT NULL THEN ' AND t.created_at >= $5' END,
        CASE WHEN until IS NOT NULL THEN ' AND t.created_at < $6' END,
        CASE WHEN thread IS NOT NULL THEN ' AND th.id = $7' END,
        all_thread_conditions_v1(filters)
    );
    newest text := concat(
        'SELECT i.bucket, i.turn_id, i.position::integer AS position, pg_column_size(i.data) AS size FROM items i ',
        $$WHERE i.project_id = $1 AND i.type = 'message' AND message_lexemes_v1(i.project_id, i.turn_id, i.data) @@ $3$$,
        CASE WHEN older_than IS NOT NULL THEN ' AND i.turn_id < $8' END,
        ' ORDER BY i.turn_id DESC, i.position DESC LIMIT '
    );
BEGIN
    RETURN QUERY EXECUTE CASE WHEN conditions = '' THEN newest || '$9' ELSE concat(
        'SELECT i.bucket, i.turn_id, i.position, i.size FROM (', newest, '$10) i',
        ' JOIN turns t ON t.project_id = $1 AND t.bucket = i.bucket AND t.id = i.turn_id',
        ' JOIN threads th ON th.project_id = $1 AND th.bucket = i.bucket AND th.id = t.thread_id',
        ' WHERE true', conditions, ' ORDER BY i.turn_id DESC, i.position DESC LIMIT $9'
    ) END USING project, filters, asked, here_before, since, until, thread, older_than, most, looked_at;
END
$function$;

-- Return candidates of a search among the titles, of the newest threads first. A filter on the last turn is checked for a
-- limited number of them.
CREATE FUNCTION found_titles_v2(
    project uuid, filters jsonb, asked tsquery, here_before timestamptz, since timestamptz, until timestamptz,
    thread uuid, most integer, looked_at integer
) RETURNS TABLE (id uuid, title text) LANGUAGE plpgsql STABLE AS $function$
DECLARE
    last_turn text := last_turn_condition_v1(filters);
    newest text := concat(
        'SELECT th.bucket, th.id, th.last_seq, th.title FROM threads th WHERE th.project_id = $1 AND th.title IS NOT NULL',
        ' AND title_lexemes_v1(th.project_id, th.title) @@ $3',
        CASE WHEN here_before IS NOT NULL THEN ' AND th.arrived_at < $4' END,
        CASE WHEN since IS NOT NULL THEN ' AND th.created_at >= $5' END,
        CASE WHEN until IS NOT NULL THEN ' AND th.created_at < $6' END,
        CASE WHEN thread IS NOT NULL THEN ' AND th.id = $7' END,
        all_thread_conditions_v1(filters - ARRAY['last_turn', 'model']),
        ' ORDER BY th.id DESC LIMIT ', CASE WHEN last_turn IS NULL THEN '$8' ELSE '$9' END
    );
BEGIN
    RETURN QUERY EXECUTE concat(
        'SELECT th.id, th.title FROM (', newest, ') th', ' WHERE ' || last_turn, ' ORDER BY th.id DESC LIMIT $8'
    ) USING project, filters, asked, here_before, since, until, thread, most, looked_at;
END
$function$;

-- Return a page of threads. A filter on the last turn, which no index answers, is checked for a limited number of
-- threads: where that ends the page early, its last row is the last thread that was looked at, and does not match.
CREATE FUNCTION listed_threads_v2(
    project uuid, filters jsonb,
    by_activity boolean,              -- ordered by when it was last spoken in, and not by when it came to be here
    downwards boolean,                -- NULL: in no order
    from_moment timestamptz, from_id uuid,  -- the place in that order that the list begins behind
    until timestamptz,                -- where it ends
    most integer,
    looked_at integer                 -- the most threads whose last turns are looked at
) RETURNS TABLE (bucket smallint, id uuid, matches boolean) LANGUAGE plpgsql STABLE ROWS 20 AS $function$
DECLARE
    place text := CASE WHEN by_activity THEN 'a.active_at, a.thread_id' ELSE 'th.arrived_at, th.id' END;
    moment text := split_part(place, ',', 1);
    last_turn text := last_turn_condition_v1(filters);
    way text := CASE downwards WHEN true THEN ' DESC' ELSE '' END;
    threads_in_order text := concat(
        'SELECT th.bucket, th.id, th.last_seq, ', moment, ' AS moment FROM threads th ',
        CASE WHEN by_activity OR activity_conditions_v1(filters) <> '' THEN
            'JOIN thread_activity a ON a.project_id = $1 AND a.bucket = th.bucket AND a.thread_id = th.id ' END,
        'WHERE th.project_id = $1', thread_conditions_v1(filters), activity_conditions_v1(filters),
        CASE WHEN from_moment IS NOT NULL THEN
            format(' AND (%s) %s ($3, $4)', place, CASE WHEN downwards THEN '<' ELSE '>' END) END,
        CASE WHEN until IS NOT NULL THEN format(' AND %s < $5', moment) END,
        CASE WHEN downwards IS NOT NULL THEN format(' ORDER BY %s%s', replace(place, ',', way || ','), way) END
    );
    found integer;
BEGIN
    IF last_turn IS NULL THEN
        RETURN QUERY EXECUTE format('SELECT s.bucket, s.id, true FROM (%s LIMIT $6) s', threads_in_order)
            USING project, filters, from_moment, from_id, until, most;
        RETURN;
    END IF;
    RETURN QUERY EXECUTE concat(
        'SELECT th.bucket, th.id, true FROM (', threads_in_order, ' LIMIT $7) th WHERE ', last_turn,
        CASE WHEN downwards IS NOT NULL THEN format(' ORDER BY th.moment%s, th.id%s', way, way) END, ' LIMIT $6'
    ) USING project, filters, from_moment, from_id, until, most, looked_at;
    GET DIAGNOSTICS found = ROW_COUNT;
    IF found < most THEN
        RETURN QUERY EXECUTE format('SELECT s.bucket, s.id, false FROM (%s OFFSET $6 - 1 LIMIT 1) s', threads_in_order)
            USING project, filters, from_moment, from_id, until, looked_at;
    END IF;
END
$function$;
