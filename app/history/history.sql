-- short_branch --
-- A branch from its first turn on, as far as it is short enough to be copied, and one turn more; with the bytes of each
-- turn's items.
{_branch | | WHERE branch.depth < :most::int}
SELECT id, (
    SELECT coalesce(sum(size), 0) FROM items
    WHERE project_id = :project_id AND bucket = :bucket AND turn_id = branch.id
) + {_media_bytes | x.bucket = :bucket AND x.turn_id = branch.id} AS size
FROM branch ORDER BY depth DESC

-- heirs --
-- The threads that continue from a thread's turns, and where: forks of it, and what was forked before some of its turns
-- became its own.
SELECT heir, turn_id FROM (
    SELECT th.id AS heir, th.forked_turn_id AS turn_id FROM turns t
    JOIN threads th ON th.project_id = :project_id AND th.bucket = :bucket AND th.forked_turn_id = t.id
    WHERE t.project_id = :project_id AND t.bucket = :bucket AND t.thread_id = :thread_id
    UNION
    SELECT c.thread_id, t.id FROM turns t
    JOIN turns c ON c.project_id = :project_id AND c.bucket = :bucket AND c.parent_id = t.id
    WHERE t.project_id = :project_id AND t.bucket = :bucket AND t.thread_id = :thread_id
) AS heirs WHERE heir <> :thread_id ORDER BY heir, turn_id

-- take_over --
-- Makes turns that a fork shares its own: the thread that they were made in is about to go. They keep their numbers:
-- those of the fork's own turns begin above them.
{_branch}
UPDATE turns SET thread_id = :fork_id
WHERE project_id = :project_id AND bucket = :bucket AND thread_id = :thread_id AND id IN (SELECT id FROM branch)
RETURNING id

-- last_piece --
-- The calls of such turns refer to pieces of the thread's: those go along, behind the fork's own.
SELECT coalesce(max(number), 0) FROM pieces
WHERE project_id = :project_id AND bucket = :bucket AND thread_id = :fork_id

-- take_pieces --
-- Pieces of other turns, which are about to be deleted, do not go along.
INSERT INTO pieces (project_id, bucket, thread_id, number, digest, sources, data, media_id)
SELECT project_id, bucket, :fork_id::uuid, number + :last_piece::integer, digest, sources, data, media_id FROM pieces
WHERE project_id = :project_id AND bucket = :bucket AND thread_id = :thread_id AND number <@ (
    SELECT range_agg(int4range(c.refs[place], c.refs[place + 1], '[]'))
    FROM calls c CROSS JOIN generate_series(1, cardinality(c.refs), 2) AS place
    WHERE c.project_id = :project_id AND c.bucket = :bucket AND c.turn_id = ANY(:turn_ids::uuid[])
        AND c.refs[place] BETWEEN 1 AND c.refs[place + 1]
)

-- sealed_pieces --
-- The ciphertexts among the pieces that a fork has taken: they are bound to the thread that they were written for.
SELECT number, digest, data FROM pieces
WHERE project_id = :project_id AND bucket = :bucket AND thread_id = :fork_id AND number > :last_piece
    AND starts_with(data, :mark)

-- rewrite_piece --
UPDATE pieces SET data = :data, sources = CASE WHEN :data::text IS NULL THEN '{}' ELSE sources END,
    digest = CASE WHEN :data::text IS NULL THEN '' ELSE digest END
WHERE project_id = :project_id AND bucket = :bucket AND thread_id = :fork_id AND number = :number

-- refer_to_pieces --
-- Moves the references of the taken turns' calls to where the fork has the pieces.
UPDATE calls SET refs = ARRAY(
    SELECT CASE WHEN first.ref = 0 THEN r.ref ELSE r.ref + :last_piece::integer END
    FROM unnest(refs) WITH ORDINALITY AS r (ref, place)
    JOIN unnest(refs) WITH ORDINALITY AS first (ref, place) ON first.place = r.place - (r.place - 1) % 2
    ORDER BY r.place
)
WHERE project_id = :project_id AND bucket = :bucket AND turn_id = ANY(:turn_ids)

-- delete_compactions --
-- Deletes the compactions that cover turns of a thread. A compaction that covers a turn comes after it, in its thread
-- or in a fork that shares it; and so does one that is built on such a compaction.
DELETE FROM compactions c USING turns t
WHERE c.project_id = :project_id AND c.bucket = :bucket AND t.project_id = :project_id AND t.bucket = :bucket
    AND t.id = c.turn_id AND t.thread_id = ANY(:thread_ids) AND (t.thread_id <> :thread_id OR t.seq >= (
        SELECT min(f.seq) FROM turns f
        WHERE f.project_id = :project_id AND f.bucket = :bucket AND f.id = ANY(:turn_ids)
    ))
RETURNING c.id, c.turn_id, t.thread_id

-- give_up_chains --
-- Gives up the response ids of a thread and of all threads that continue from it, and returns these threads. Forks that
-- share turns lie in the same bucket.
WITH RECURSIVE affected AS (
    SELECT :thread_id::uuid AS id
    UNION
    SELECT heirs.id FROM affected CROSS JOIN LATERAL (
        SELECT th.id FROM turns t
        JOIN threads th ON th.project_id = :project_id AND th.bucket = :bucket AND th.forked_turn_id = t.id
        WHERE t.project_id = :project_id AND t.bucket = :bucket AND t.thread_id = affected.id
        UNION ALL
        SELECT c.thread_id FROM turns t
        JOIN turns c ON c.project_id = :project_id AND c.bucket = :bucket AND c.parent_id = t.id
        WHERE t.project_id = :project_id AND t.bucket = :bucket AND t.thread_id = affected.id
            AND c.thread_id <> affected.id
    ) AS heirs
), given_up AS (
    UPDATE turns SET response_unknown_at = now(), response_unknown_reason = :reason
    WHERE project_id = :project_id AND bucket = :bucket AND thread_id IN (SELECT id FROM affected)
        AND response_expires_at > now() AND response_unknown_at IS NULL
)
SELECT id FROM affected

-- _held_turn --
-- The thread comes before its turns, and what belongs to none of them behind.
coalesce(turn_id, CASE source WHEN 'threads' THEN '00000000-0000-0000-0000-000000000000'::uuid
    ELSE 'ffffffff-ffff-ffff-ffff-ffffffffffff' END)

-- _held_order --
(kept_at, {_held_turn}, array_position(:sources::text[], source), place, id)

-- held_cursor --
SELECT kept_at AS at, {_held_turn} AS turn, source, place, id FROM held_rows
WHERE project_id = :project_id AND bucket = :bucket AND thread_id = :thread_id AND id = :id

-- held_page --
-- Kept rows of a thread behind another, in the order of time, as many as a page has room for, and the number of those
-- that it might hold. The size of an item includes its media.
SELECT * FROM (
    SELECT *, count(*) OVER () AS candidates, sum(size) OVER (ORDER BY number) AS bytes FROM (
        SELECT r.*, octet_length(r.data::text) + CASE WHEN r.source = 'items' THEN (
            SELECT coalesce(sum(octet_length(m.data::text)), 0) FROM held_rows i
            JOIN held_rows m ON m.project_id = :project_id AND m.bucket = :bucket AND m.thread_id = :thread_id
                AND m.source = 'media' AND m.row_key = i.data->>'media_id'
            WHERE i.project_id = :project_id AND i.bucket = :bucket AND i.thread_id = :thread_id
                AND i.source = 'item_media' AND i.turn_id = r.turn_id AND i.place = r.place
        ) ELSE 0 END AS size
        FROM (
            SELECT *, row_number() OVER (ORDER BY {_held_order}) AS number FROM held_rows
            WHERE project_id = :project_id AND bucket = :bucket AND thread_id = :thread_id
                AND source = ANY(:sources::text[]) AND (:last_at::timestamptz IS NULL OR {_held_order} > (
                    :last_at::timestamptz, :last_turn::uuid, array_position(:sources::text[], :last_source::text),
                    :last_place::integer, :last_id::uuid
                ))
            ORDER BY {_held_order} LIMIT :limit
        ) r
    ) sized
) page WHERE bytes <= :most_bytes OR number = 1 ORDER BY number

-- held_media --
-- The media of kept items, by their places in the items.
SELECT i.turn_id, i.place AS position, (i.data->>'place')::integer AS place, (i.data->>'media_id')::uuid AS id, m.data
FROM held_rows i CROSS JOIN LATERAL (
    SELECT m.data->>'data' AS data FROM held_rows m
    WHERE m.project_id = :project_id AND m.bucket = :bucket AND m.thread_id = :thread_id AND m.source = 'media'
        AND m.row_key = i.data->>'media_id'
    ORDER BY m.kept_at DESC LIMIT 1
) m
WHERE i.project_id = :project_id AND i.bucket = :bucket AND i.thread_id = :thread_id AND i.source = 'item_media'
    AND i.turn_id = ANY(:turn_ids::uuid[])

-- held_threads --
-- The threads of which a hold keeps contents, from one on.
SELECT r.bucket, r.thread_id, (array_agg(r.user_id ORDER BY r.kept_at DESC))[1] AS user_id, count(*) AS contents,
    min(r.kept_at) AS first_kept_at, max(r.kept_at) AS last_kept_at, EXISTS (
        SELECT FROM threads t WHERE t.project_id = :project_id AND t.bucket = r.bucket AND t.id = r.thread_id
    ) AS there
FROM held_rows r
WHERE r.project_id = :project_id AND r.thread_id IS NOT NULL AND r.source = ANY(:sources::text[])
    AND (r.bucket > :last_bucket OR r.bucket = :last_bucket AND r.thread_id > :last_thread::uuid)
    AND (:scope = 'project' OR r.thread_id = :held_thread::uuid OR r.user_id = :held_user::text)
GROUP BY r.bucket, r.thread_id ORDER BY r.bucket, r.thread_id LIMIT :limit

-- erased_counts --
-- The number of rows that go with the turns of a thread.
SELECT (
    SELECT count(*) FROM items WHERE project_id = :project_id AND bucket = :bucket AND turn_id = ANY(:turn_ids::uuid[])
) AS items, (
    SELECT count(*) FROM calls WHERE project_id = :project_id AND bucket = :bucket AND turn_id = ANY(:turn_ids::uuid[])
) AS calls, (
    SELECT count(DISTINCT media_id) FROM item_media
    WHERE project_id = :project_id AND bucket = :bucket AND turn_id = ANY(:turn_ids::uuid[])
) AS media

-- siblings --
-- The turns of a thread that continue from the same turn, in their order.
SELECT id, status, continuation, model, created_at FROM turns
WHERE project_id = :project_id AND bucket = :bucket AND parent_id = :parent_id AND thread_id = :thread_id
    AND deleted_at IS NULL
ORDER BY seq LIMIT :limit

-- roots --
-- The turns of a thread without a parent, in their order.
SELECT id, status, continuation, model, created_at FROM turns
WHERE project_id = :project_id AND bucket = :bucket AND thread_id = :thread_id AND parent_id IS NULL
    AND deleted_at IS NULL
ORDER BY seq LIMIT :limit
