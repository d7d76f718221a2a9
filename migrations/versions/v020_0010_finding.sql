-- Return the conditions that filters set on a thread `th` of the project $1. $2: the filters. Only those given are
-- conditions, so that each combination gets its own plan. Each condition begins with AND. `name_of_each`, if it is set: the
-- name of each thread is compared, and no index is used.
CREATE FUNCTION thread_conditions_v1(filters jsonb) RETURNS text LANGUAGE sql IMMUTABLE RETURN concat(
    CASE WHEN filters ? 'user' THEN $$ AND th.user_id = $2->>'user'$$ END,
    CASE WHEN filters ? 'user_begins' THEN $$ AND th.user_id LIKE $2->>'user_begins'$$ END,
    CASE WHEN filters ? 'name_begins' THEN
        $$ AND th.name LIKE $2->>'name_begins'$$ END,
    CASE WHEN filters ? 'name_begins' AND NOT filters ? 'name_of_each' THEN
        $$ AND (th.bucket, th.id) IN (SELECT bucket_of(thread_id), thread_id
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

-- Return the condition that filters set on the last turn of a thread `th`, or NULL. By its order and limit, the turn
-- is looked up in the index on its number, though a new project looks as if its turns were few.
CREATE FUNCTION last_turn_condition_v1(filters jsonb) RETURNS text LANGUAGE sql IMMUTABLE RETURN
    CASE WHEN filters ?| ARRAY['last_turn', 'model'] THEN concat(
        'EXISTS (SELECT FROM (SELECT status, model FROM turns WHERE project_id = $1 AND bucket = th.bucket',
        ' AND thread_id = th.id AND seq >= th.last_seq ORDER BY seq LIMIT 1) l WHERE true',
        CASE WHEN filters ? 'last_turn' THEN $$ AND l.status = $2->>'last_turn'$$ END,
        CASE WHEN filters ? 'model' THEN $$ AND l.model = $2->>'model'$$ END,
        ')'
    ) END;

-- Return the conditions that filters set on the time of the last turn `a` of a thread: ` AND …`, or nothing.
CREATE FUNCTION activity_conditions_v1(filters jsonb) RETURNS text LANGUAGE sql IMMUTABLE RETURN concat(
    CASE WHEN filters ? 'active_after' THEN $$ AND a.active_at > ($2->>'active_after')::timestamptz$$ END,
    CASE WHEN filters ? 'active_before' THEN $$ AND a.active_at < ($2->>'active_before')::timestamptz$$ END
);

-- Return all conditions that filters set on a thread `th` of the project $1 that something else has found.
CREATE FUNCTION all_thread_conditions_v1(filters jsonb) RETURNS text LANGUAGE sql IMMUTABLE RETURN concat(
    thread_conditions_v1(filters || '{"name_of_each": true}'),
    CASE WHEN activity_conditions_v1(filters) <> '' THEN concat(
        ' AND EXISTS (SELECT FROM thread_activity a',
        ' WHERE a.project_id = $1 AND a.bucket = th.bucket AND a.thread_id = th.id',
        activity_conditions_v1(filters), ' OFFSET 0)') END,
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
        ' CROSS JOIN LATERAL (SELECT thread_id, created_at, arrived_at FROM turns',
        ' WHERE project_id = $1 AND bucket = i.bucket AND id = i.turn_id OFFSET 0) t',
        ' CROSS JOIN LATERAL (SELECT th.* FROM threads th',
        ' WHERE th.project_id = $1 AND th.bucket = i.bucket AND th.id = t.thread_id OFFSET 0) th',
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
    with_activity boolean := by_activity OR activity_conditions_v1(filters) <> '';
    little integer := CASE WHEN last_turn IS NULL THEN 5000 ELSE looked_at END;  -- Rows that are read at once, and sorted.
    of_threads text;
    of_activity text := 'FROM thread_activity a WHERE a.project_id = $1' || activity_conditions_v1(filters);
    narrow text;  -- What the filters find without the order of the list.
    threads_in_order text;
    found integer;
BEGIN
    -- Where that is little, the list begins with it, else with its order. The other table is looked up by its key for each
    -- row. Statistics would tell what is little, but not of a new project.
    IF filters ? 'name_begins' THEN
        SELECT count(*) INTO found FROM (
            SELECT FROM thread_names n WHERE n.project_id = project AND n.name LIKE filters->>'name_begins' LIMIT little + 1
        ) s;
        filters := CASE WHEN found > little THEN filters || '{"name_of_each": true}' ELSE filters END;
    END IF;
    of_threads := 'FROM threads th WHERE th.project_id = $1' || thread_conditions_v1(filters);
    IF by_activity AND thread_conditions_v1(filters) <> '' THEN
        narrow := of_threads;
    ELSIF with_activity AND NOT by_activity THEN
        narrow := of_activity;
    END IF;
    found := NULL;
    IF narrow IS NOT NULL THEN
        EXECUTE format('SELECT count(*) FROM (SELECT %s LIMIT %s) s', narrow, little + 1) INTO found
            USING project, filters;
    END IF;
    threads_in_order := concat(
        'SELECT th.bucket, th.id, th.last_seq, ', moment, ' AS moment ',
        CASE WHEN NOT with_activity THEN of_threads
            WHEN by_activity = coalesce(found <= little, false) THEN concat(
                'FROM threads th CROSS JOIN LATERAL (SELECT a.thread_id, a.active_at ', of_activity,
                ' AND a.bucket = th.bucket AND a.thread_id = th.id OFFSET 0) a WHERE th.project_id = $1',
                thread_conditions_v1(filters))
            ELSE concat(
                'FROM thread_activity a CROSS JOIN LATERAL (SELECT th.bucket, th.id, th.last_seq, th.arrived_at ', of_threads,
                ' AND th.bucket = a.bucket AND th.id = a.thread_id OFFSET 0) th WHERE a.project_id = $1',
                activity_conditions_v1(filters)) END,
        CASE WHEN from_moment IS NOT NULL THEN
            format(' AND (%s) %s ($3, $4)', place, CASE WHEN downwards THEN '<' ELSE '>' END) END,
        CASE WHEN until IS NOT NULL THEN format(' AND %s < $5', moment) END,
        CASE WHEN downwards IS NOT NULL THEN format(' ORDER BY %s%s', replace(place, ',', way || ','), way) END
    );
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
