-- schema --
-- What a fingerprint of the schema is made of: a line for each column, index, constraint, trigger and function.
SELECT c.relname AS part, format('column %s %s %s %s', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
    pg_get_expr(d.adbin, d.adrelid)) AS line
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = current_schema()::regnamespace AND c.relname = ANY(:tables)
UNION ALL
SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = current_schema() AND tablename = ANY(:tables)
UNION ALL
SELECT c.relname, format('constraint %s %s', k.conname, pg_get_constraintdef(k.oid))
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
WHERE c.relnamespace = current_schema()::regnamespace AND c.relname = ANY(:tables)
UNION ALL
SELECT c.relname, pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE NOT t.tgisinternal AND c.relnamespace = current_schema()::regnamespace AND c.relname = ANY(:tables)
UNION ALL
SELECT 'functions', format('%s %s', p.proname, md5(p.prosrc)) FROM pg_proc p
WHERE p.pronamespace = current_schema()::regnamespace
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')

-- sizes --
-- How large tables are, as the planner knows it.
SELECT c.relname AS part, c.reltuples::bigint AS rows, pg_total_relation_size(c.oid) AS bytes
FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace AND c.relname = ANY(:tables)

-- errors --
-- How often turns of the last days have failed, by outcome.
SELECT outcome, sum(turns)::bigint AS turns, max(hour)::text AS last_hour FROM turn_hours
WHERE hour > now() - make_interval(days => :days) AND outcome NOT IN ('completed', 'in_progress')
GROUP BY outcome ORDER BY 2 DESC

-- some_projects --
-- Projects whose answers are examined.
SELECT project_id FROM projects ORDER BY created_at DESC LIMIT :most

-- implausible_dates --
-- Of a project's last turns of a day, the number of answers of each account whose date exceeds a plausible skew.
SELECT binding, count(*) AS turns, (avg(extract(epoch FROM response_created_at - arrived_at)))::float8 AS seconds
FROM (
    SELECT binding, response_created_at, arrived_at, coalesce(completed_at, arrived_at) AS ended_at FROM turns
    WHERE project_id = :project_id AND arrived_at > now() - interval '1 day' ORDER BY arrived_at DESC LIMIT :most
) AS latest
WHERE binding IS NOT NULL AND response_created_at NOT BETWEEN
    arrived_at - make_interval(secs => :skew_seconds) AND ended_at + make_interval(secs => :skew_seconds)
GROUP BY binding

-- statement_timeout --
-- The longest that a statement may take, in milliseconds; 0 is none.
SELECT setting::bigint FROM pg_settings WHERE name = 'statement_timeout'
