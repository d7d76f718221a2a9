-- _branch --
-- The branch that a turn ends, from this turn backwards to its root. The first filling adds columns of each turn `t`,
-- the second a condition on which the walk goes on. OFFSET 0: each turn is looked up by its own key, though a new table
-- looks as if reading it whole were cheaper.
WITH RECURSIVE branch AS (
    SELECT t.id, t.parent_id, 0 AS depth{1} FROM turns t
    WHERE t.project_id = :project_id AND t.bucket = :bucket AND t.id = :turn_id
    UNION ALL
    SELECT t.*
    FROM branch CROSS JOIN LATERAL (
        SELECT t.id, t.parent_id, branch.depth + 1{1} FROM turns t
        WHERE t.project_id = :project_id AND t.bucket = :bucket AND t.id = branch.parent_id OFFSET 0
    ) t
    {2}
)

-- _media_bytes --
-- The bytes of the media of items, which the filling chooses by their bucket, turn and position.
coalesce((
    SELECT sum(octet_length(m.data)) FROM item_media x
    JOIN media m ON m.project_id = :project_id AND m.bucket = x.bucket AND m.id = x.media_id
    WHERE x.project_id = :project_id AND {1}
), 0)
