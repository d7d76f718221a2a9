-- in_chain_order -> RecordRow --
-- Records of a project between two places in its chains, each with the hash that a checkpoint has seen, if one has.
SELECT r.project_id, r.bucket, r.chain_id, r.seq, r.at, r.action, r.turn_id, r.key_id, r.user_digest, r.address_digest,
    r.detail, r.content, r.previous, r.hash, r.version, l.hash AS leaf
FROM audit_records r
LEFT JOIN audit_leaves l ON l.project_id = r.project_id AND l.chain_id = r.chain_id AND l.seq = r.seq
WHERE r.project_id = :project_id AND (r.bucket, r.chain_id, r.seq) > (:bucket, :chain_id, :seq)
    AND (r.bucket, r.chain_id) <= (:last_bucket, :last_chain_id)
ORDER BY r.bucket, r.chain_id, r.seq LIMIT :limit

-- count_records --
SELECT count(*) FROM audit_records WHERE project_id = :project_id AND (:chain_id::uuid IS NULL OR chain_id = :chain_id)

-- first_record --
-- A row if there ever was such a chain.
SELECT seq FROM audit_records
WHERE project_id = :project_id AND bucket = :bucket AND chain_id = :chain_id LIMIT 1

-- place_of_record --
SELECT at FROM audit_records
WHERE project_id = :project_id AND bucket = :bucket AND chain_id = :chain_id AND seq = :seq

-- projects -> ProjectRow --
-- The projects, or the one of a name.
SELECT project_id, name FROM projects WHERE :name::text IS NULL OR name = :name ORDER BY project_id

-- leaves -> LeafRow --
SELECT position, chain_id, seq, hash FROM audit_leaves
WHERE project_id = :project_id AND position >= :start AND position < :size
ORDER BY position LIMIT :limit

-- lost_leaves --
-- Leaves whose records are gone.
SELECT l.chain_id, l.seq FROM audit_leaves l
LEFT JOIN audit_records r ON r.project_id = l.project_id AND r.chain_id = l.chain_id AND r.seq = l.seq
WHERE l.project_id = :project_id AND (:chain_id::uuid IS NULL OR l.chain_id = :chain_id) AND r.seq IS NULL
ORDER BY l.chain_id, l.seq LIMIT 10

-- unsigned_leaf --
-- The first leaf that no checkpoint covers. Each statement that writes leaves writes their checkpoint too.
SELECT min(position) FROM audit_leaves WHERE project_id = :project_id AND position >= coalesce(
    (SELECT max(size) FROM audit_checkpoints WHERE project_id = :project_id), 0
)

-- checkpoints -> CheckpointRow --
SELECT size, at, root, public_key, signature, note FROM audit_checkpoints
WHERE project_id = :project_id ORDER BY size

-- last_note --
-- The note of the last checkpoint that has one.
SELECT size, note FROM audit_checkpoints WHERE project_id = :project_id AND note IS NOT NULL ORDER BY size DESC LIMIT 1

-- origin --
-- The name that a project's log has now; for its first checkpoint, the former names in their order.
SELECT o.origin, CASE WHEN o.origin IS DISTINCT FROM (
    SELECT split_part(note, E'\n', 1) FROM audit_checkpoints
    WHERE project_id = o.project_id AND note IS NOT NULL ORDER BY size DESC LIMIT 1
) THEN (
    SELECT array_agg(f.origin ORDER BY f.generation) FROM audit_origins f
    WHERE f.project_id = o.project_id AND f.generation < o.generation
) END AS former
FROM audit_origins o WHERE o.project_id = :project_id ORDER BY o.generation DESC LIMIT 1

-- origins -> OriginRow --
-- Every name that a project's log has had.
SELECT origin FROM audit_origins WHERE project_id = :project_id ORDER BY generation

-- add_origin --
INSERT INTO audit_origins (project_id, generation, origin) VALUES (:project_id, :generation, :origin)
ON CONFLICT DO NOTHING

-- forget_answers --
-- What witnesses have answered about the name before is over.
UPDATE audit_witnesses SET error = NULL WHERE project_id = :project_id

-- last_leaf_of --
-- The position of the last leaf of a chain.
SELECT position FROM audit_leaves WHERE project_id = :project_id AND chain_id = :chain_id ORDER BY seq DESC LIMIT 1

-- begin_origin --
-- Name a project's log. Without a base, the first key of the database makes one: hosts with several keys agree on it.
INSERT INTO audit_origins (project_id, generation, origin)
SELECT :project_id, 1, coalesce(:base::text, 'everthread.local/' || left(encode(sha256(coalesce(
    (SELECT public_key FROM audit_keys ORDER BY added_at, public_key LIMIT 1), :public_key::bytea
)), 'hex'), 16)) || '/' || encode(uuid_send(:project_id::uuid), 'hex')
ON CONFLICT DO NOTHING

-- last_checkpoint --
-- The last checkpoint of at most this size; without a size, the last of all.
SELECT size, at FROM audit_checkpoints WHERE project_id = :project_id AND (:most::bigint IS NULL OR size <= :most)
ORDER BY size DESC LIMIT 1

-- grown --
-- The heads of the chains that have grown since a moment.
SELECT r.bucket, r.chain_id, r.seq, r.hash FROM (
    SELECT bucket, chain_id, max(seq) AS seq FROM audit_records
    WHERE project_id = :project_id AND at >= :since AND (bucket, chain_id) > (:bucket, :chain_id)
    GROUP BY bucket, chain_id ORDER BY bucket, chain_id LIMIT :limit
) head JOIN audit_records r
    ON r.project_id = :project_id AND r.bucket = head.bucket AND r.chain_id = head.chain_id AND r.seq = head.seq
ORDER BY r.bucket, r.chain_id

-- with_leaf --
SELECT chain_id, seq FROM audit_leaves
WHERE project_id = :project_id AND chain_id = ANY(:chain_ids) AND seq = ANY(:seqs)

-- write_checkpoint --
-- Leaves and their signature come into being together, or not at all. Of two services at once, the second finds the
-- first one's tree larger than it thought, and no row comes back.
WITH last AS (
    SELECT coalesce(max(size), 0) AS size FROM audit_checkpoints WHERE project_id = :project_id
), leaf AS (
    INSERT INTO audit_leaves (project_id, position, chain_id, seq, hash)
    SELECT :project_id, :before + l.place - 1, l.chain_id, l.seq, l.hash
    FROM last, unnest(:chain_ids::uuid[], :seqs::bigint[], :hashes::bytea[])
        WITH ORDINALITY AS l (chain_id, seq, hash, place)
    WHERE last.size = :before
    RETURNING position
)
INSERT INTO audit_checkpoints (project_id, size, at, root, public_key, signature, note)
SELECT :project_id, :size, :at, :root, :public_key, :signature, :note FROM last WHERE last.size = :before
RETURNING size

-- without_cosignature --
-- Projects whose newest checkpoint a witness has not cosigned, since when there is one, and whether no worker sends it.
SELECT p.project_id, since.at, coalesce(w.taken_until < now(), true) AS free
FROM projects p
CROSS JOIN LATERAL (
    SELECT size, note FROM audit_checkpoints
    WHERE project_id = p.project_id AND note IS NOT NULL ORDER BY size DESC LIMIT 1
) c
LEFT JOIN LATERAL (
    SELECT size FROM audit_cosignatures
    WHERE project_id = p.project_id AND public_key = :public_key AND origin = split_part(c.note, E'\n', 1)
    ORDER BY size DESC LIMIT 1
) s ON true
CROSS JOIN LATERAL (
    SELECT at FROM audit_checkpoints
    WHERE project_id = p.project_id AND size > coalesce(s.size, 0)
        AND split_part(note, E'\n', 1) = split_part(c.note, E'\n', 1)
    ORDER BY size LIMIT 1
) since
LEFT JOIN audit_witnesses w ON w.project_id = p.project_id AND w.public_key = :public_key
WHERE s.size IS NULL OR s.size < c.size
ORDER BY since.at LIMIT :most

-- take_witness --
-- Let one worker send a project's checkpoint to a witness. No row comes back while another does.
INSERT INTO audit_witnesses (project_id, public_key, taken_until)
VALUES (:project_id, :public_key, now() + :lease_seconds::float8 * interval '1 second')
ON CONFLICT (project_id, public_key) DO UPDATE SET taken_until = excluded.taken_until
WHERE audit_witnesses.taken_until < now()
RETURNING error

-- settle_witness --
-- Write down what a witness has answered. The next request waits for the pause.
UPDATE audit_witnesses SET error = :error, answered_at = now(),
    taken_until = now() + :pause_seconds::float8 * interval '1 second'
WHERE project_id = :project_id AND public_key = :public_key

-- newest_for_witness --
-- The newest checkpoint of a project, and the size that a witness has cosigned under its origin.
SELECT c.note, coalesce((
    SELECT max(s.size) FROM audit_cosignatures s
    WHERE s.project_id = c.project_id AND s.public_key = :public_key AND s.origin = split_part(c.note, E'\n', 1)
), 0) AS cosigned
FROM audit_checkpoints c WHERE c.project_id = :project_id AND c.note IS NOT NULL ORDER BY c.size DESC LIMIT 1

-- add_cosignature --
INSERT INTO audit_cosignatures (project_id, public_key, size, origin, name, at, signature)
VALUES (:project_id, :public_key, :size, :origin, :name, :at, :signature)
ON CONFLICT (project_id, public_key, size) DO NOTHING

-- cosignatures -> CosignatureRow --
-- The cosignatures of a project's checkpoints, or of one of them.
SELECT size, origin, name, public_key, signature FROM audit_cosignatures
WHERE project_id = :project_id AND (:size::bigint IS NULL OR size = :size) ORDER BY size, name, public_key

-- witnesses -> WitnessRow --
-- What each witness that was ever sent a checkpoint of a project has last answered, and the last one it has cosigned.
-- An answer of a day ago is one of a witness that is not configured any more.
SELECT w.public_key, w.answered_at, w.error, s.size, s.at, s.name,
    w.error IS NOT DISTINCT FROM 'forked' AND w.answered_at > now() - interval '1 day' AS forked
FROM audit_witnesses w
LEFT JOIN LATERAL (
    SELECT size, at, name FROM audit_cosignatures
    WHERE project_id = w.project_id AND public_key = w.public_key ORDER BY size DESC LIMIT 1
) s ON true
WHERE w.project_id = :project_id

-- restorations --
-- The records of a project that say that its database was restored.
SELECT at, detail FROM audit_records
WHERE project_id = :project_id AND bucket = :bucket AND chain_id = :project_id AND action = :action
ORDER BY seq

-- turns --
-- Turns as records are compared with them. A chain's turns lie in its bucket.
SELECT t.id, t.thread_id, t.seq, t.beside, t.parent_id, t.copied_from_id, t.status, t.continuation, t.model,
    t.params::text AS params, t.metadata, t.ignored, t.created_at, t.arrived_at, t.completed_at, t.deleted_at,
    t.api_key_id, t.salt, t.left_salt, t.error_status, t.response::text AS response, t.usage::text AS usage,
    t.error::text AS error, t.incomplete_details::text AS incomplete_details, t.pace::text AS pace,
    t.context::text AS context, t.binding, t.response_id, t.response_created_at, t.response_expires_at,
    c.salt AS compaction_salt, c.text AS compaction, c.id AS compaction_id, c.model AS compaction_model,
    c.kept_items AS compaction_kept_items, c.covered_turns AS compaction_covered_turns,
    c.covered_tokens AS compaction_covered_tokens, c.tokens AS compaction_tokens, c.calls::text AS compaction_calls,
    c.usage::text AS compaction_usage, c.created_at AS compaction_created_at,
    c.completed_at AS compaction_completed_at, (
        SELECT array_agg(
            ARRAY[i.position::text, i.origin, i.type, i.item_id, i.data::text] ORDER BY i.position
        ) FROM items i
        WHERE i.project_id = :project_id AND i.bucket = t.bucket AND i.turn_id = t.id
    ) AS items
FROM unnest(:buckets::smallint[], :ids::uuid[]) AS wanted (bucket, id)
JOIN turns t ON t.project_id = :project_id AND t.bucket = wanted.bucket AND t.id = wanted.id
LEFT JOIN compactions c ON c.project_id = :project_id AND c.bucket = t.bucket AND c.turn_id = t.id
    AND c.status = 'ready'

-- calls --
SELECT c.turn_id, c.attempt, c.continuation, c.url, c.frames, c.refs, c.dropped_items, c.status, c.response_id,
    c.error::text AS error, c.started_at, c.finished_at, t.thread_id
FROM unnest(:buckets::smallint[], :ids::uuid[]) AS wanted (bucket, id)
JOIN calls c ON c.project_id = :project_id AND c.bucket = wanted.bucket AND c.turn_id = wanted.id
JOIN turns t ON t.project_id = :project_id AND t.bucket = wanted.bucket AND t.id = wanted.id

-- pieces --
-- A range of the pieces of each thread.
SELECT p.thread_id, p.number, p.digest, p.data, p.media_id, m.data AS media
FROM unnest(:buckets::smallint[], :ids::uuid[], :firsts::integer[], :lasts::integer[])
    AS wanted (bucket, id, first, last)
JOIN pieces p ON p.project_id = :project_id AND p.bucket = wanted.bucket AND p.thread_id = wanted.id
    AND p.number BETWEEN wanted.first AND wanted.last
LEFT JOIN media m ON m.project_id = :project_id AND m.bucket = p.bucket AND m.id = p.media_id
WHERE p.data IS NOT NULL OR m.data IS NOT NULL

-- threads --
SELECT th.id, th.salt, th.name, th.title, th.user_id, th.metadata, th.ttl_seconds, th.archived_at, th.created_at,
    th.arrived_at, th.forked_turn_id, th.head_turn_id, th.turn_count, th.chain_seq, th.chain_hash
FROM unnest(:buckets::smallint[], :ids::uuid[]) AS wanted (bucket, id)
JOIN threads th ON th.project_id = :project_id AND th.bucket = wanted.bucket AND th.id = wanted.id

-- places --
-- The tree of each thread: what its head is followed through.
SELECT t.thread_id, t.id, t.parent_id, t.beside FROM unnest(:buckets::smallint[], :ids::uuid[]) AS wanted (bucket, id)
JOIN turns t ON t.project_id = :project_id AND t.bucket = wanted.bucket AND t.thread_id = wanted.id

-- feedback --
SELECT f.id, f.turn_id, f.score, f.label, f.comment, f.user_id, f.created_at, f.salt
FROM unnest(:buckets::smallint[], :ids::uuid[]) AS wanted (bucket, id)
JOIN feedback f ON f.project_id = :project_id AND f.bucket = wanted.bucket AND f.id = wanted.id

-- shares --
SELECT s.id, s.thread_id, s.turn_id, s.title, s.token_hash, s.expires_at, s.created_at, s.salt
FROM unnest(:buckets::smallint[], :ids::uuid[]) AS wanted (bucket, id)
JOIN shares s ON s.project_id = :project_id AND s.bucket = wanted.bucket AND s.id = wanted.id

-- project --
SELECT name, operates, settings, retention_days, session_cache, created_at, archived_at, encrypted_at,
    key_destroyed_at, record_reads, minimum_retention_days, salt
FROM projects WHERE project_id = :project_id

-- keys --
SELECT id, name, hint, key_hash, scopes, limits, created_at, expires_at, revoked_at, subject, salt
FROM api_keys WHERE project_id = :project_id

-- key_names --
SELECT id, name FROM api_keys WHERE project_id = :project_id AND id = ANY(:ids::uuid[])

-- of_turn --
-- The records of a turn, in the chain of its thread.
SELECT chain_id, seq, at, action, turn_id, key_id, content, detail, hash FROM audit_records
WHERE project_id = :project_id AND bucket = :bucket AND chain_id = :chain_id AND turn_id = :turn_id
    AND content IS NOT NULL
ORDER BY seq

-- between -> RecordRow --
-- Records of a chain from one to another.
SELECT project_id, bucket, chain_id, seq, at, action, turn_id, key_id, user_digest, address_digest, detail, content,
    previous, hash, version
FROM audit_records
WHERE project_id = :project_id AND bucket = :bucket AND chain_id = :chain_id AND seq BETWEEN :first AND :last
ORDER BY seq

-- covering_leaf -> LeafRow --
-- The first leaf of a chain that covers a record, in the tree of a size.
SELECT position, chain_id, seq, hash FROM audit_leaves
WHERE project_id = :project_id AND chain_id = :chain_id AND seq >= :seq AND position < :size
ORDER BY seq LIMIT 1

-- newest_checkpoint -> CheckpointRow --
SELECT size, at, root, public_key, signature, note FROM audit_checkpoints
WHERE project_id = :project_id ORDER BY size DESC LIMIT 1

-- since --
-- The records of a chain that were appended since it was read, up to one of them or to the last.
SELECT chain_id, seq, at, action, turn_id, key_id, content, detail, hash FROM audit_records
WHERE project_id = :project_id AND bucket = :bucket AND chain_id = :chain_id AND seq > :seq
    AND (:until::bigint IS NULL OR seq <= :until)
ORDER BY seq

-- came_by --
-- The last record of how a thread got a turn, or changed it.
SELECT action FROM audit_records WHERE project_id = :project_id AND bucket = :bucket AND chain_id = :chain_id
    AND turn_id = :turn_id
    AND action IN ('turn.opened', 'items.added', 'turn.imported', 'turn.inherited', 'item.deleted')
ORDER BY seq DESC LIMIT 1

-- unrecorded_threads --
-- Threads without a record of their creation or import: they bypassed the service, or their chain was removed.
SELECT th.id FROM threads th
LEFT JOIN audit_records r ON r.project_id = :project_id AND r.bucket = th.bucket AND r.chain_id = th.id
    AND r.action IN ('thread.created', 'thread.imported')
WHERE th.project_id = :project_id AND (:thread_id::uuid IS NULL OR th.id = :thread_id) AND r.chain_id IS NULL
ORDER BY th.id LIMIT 10

-- unrecorded_turns --
-- Rows without the records that they must have were written past the service, or their records were removed. The
-- records of a turn are in the chain of the thread that has it.
SELECT t.thread_id, t.id, o.turn_id IS NULL AS unopened FROM turns t
LEFT JOIN audit_records o ON o.project_id = :project_id AND o.bucket = t.bucket AND o.turn_id = t.id
    AND o.chain_id = t.thread_id AND o.action IN ('turn.opened', 'items.added', 'turn.imported', 'turn.inherited')
LEFT JOIN audit_records c ON c.project_id = :project_id AND c.bucket = t.bucket AND c.turn_id = t.id
    AND c.chain_id = t.thread_id AND c.action IN ('turn.closed', 'items.added', 'turn.imported', 'turn.inherited')
WHERE t.project_id = :project_id AND (:thread_id::uuid IS NULL OR t.thread_id = :thread_id)
    AND (o.turn_id IS NULL OR (c.turn_id IS NULL AND t.status <> 'in_progress'))
ORDER BY t.id LIMIT 10

-- unrecorded_feedback --
SELECT f.id FROM feedback f JOIN turns t ON t.project_id = :project_id AND t.bucket = f.bucket AND t.id = f.turn_id
LEFT JOIN audit_records r ON r.project_id = :project_id AND r.bucket = f.bucket AND r.turn_id = f.turn_id
    AND r.action = 'feedback.given' AND r.detail = 'feedback_' || encode(uuid_send(f.id), 'hex')
WHERE f.project_id = :project_id AND (:thread_id::uuid IS NULL OR t.thread_id = :thread_id) AND r.turn_id IS NULL
ORDER BY f.id LIMIT 10

-- unrecorded_shares --
SELECT s.id FROM shares s
LEFT JOIN audit_records r ON r.project_id = :project_id AND r.bucket = s.bucket AND r.chain_id = s.thread_id
    AND r.action = 'thread.shared' AND r.detail = 'share_' || encode(uuid_send(s.id), 'hex')
WHERE s.project_id = :project_id AND (:thread_id::uuid IS NULL OR s.thread_id = :thread_id) AND r.chain_id IS NULL
ORDER BY s.id LIMIT 10

-- stream -> StreamRow --
-- Records of a project behind a position of its stream.
SELECT p.position, r.project_id, r.bucket, r.chain_id, r.seq, r.at, r.action, r.turn_id, r.key_id, r.user_digest,
    r.address_digest, r.detail, r.content, r.previous, r.hash, r.version
FROM audit_positions p
JOIN audit_records r
    ON r.project_id = p.project_id AND r.bucket = p.bucket AND r.chain_id = p.chain_id AND r.seq = p.seq
WHERE p.project_id = :project_id AND p.position > :after
ORDER BY p.position LIMIT :limit

-- by_index --
-- Has the transaction's statements read the trail along its indexes, as far as their limit, whatever the statistics say.
SELECT set_config(name, 'off', true)
FROM unnest(ARRAY['enable_hashjoin', 'enable_mergejoin', 'enable_bitmapscan', 'enable_sort']) AS name

-- last_position --
SELECT coalesce(max(position), 0) FROM audit_positions WHERE project_id = :project_id

-- hash_at --
-- The hash of the record at a position.
SELECT r.hash FROM audit_positions p
JOIN audit_records r
    ON r.project_id = p.project_id AND r.bucket = p.bucket AND r.chain_id = p.chain_id AND r.seq = p.seq
WHERE p.project_id = :project_id AND p.position = :position

-- begin_stream --
INSERT INTO audit_streams (project_id, again_at) VALUES (:project_id, :again_at) ON CONFLICT DO NOTHING

-- lock_stream --
-- The places of a project's searches. Whoever holds the row assigns the project's positions.
SELECT * FROM audit_streams WHERE project_id = :project_id FOR UPDATE

-- keep_places --
UPDATE audit_streams SET ahead_at = :ahead_at, ahead_chain = :ahead_chain, ahead_seq = :ahead_seq,
    again_at = :again_at, again_chain = :again_chain, again_seq = :again_seq, again_next = :again_next,
    swept_bucket = :swept_bucket, swept_chain = :swept_chain, swept_seq = :swept_seq
WHERE project_id = :project_id

-- from_moment -> FoundRow --
-- Records behind a moment: `placed` if they have a position, and `preceded` if the one before in the chain has.
SELECT r.bucket, r.chain_id, r.seq, r.at, p.seq IS NOT NULL AS placed, r.seq = 1 OR b.seq IS NOT NULL AS preceded
FROM (
    SELECT bucket, chain_id, seq, at FROM audit_records
    WHERE project_id = :project_id AND at >= :at AND (at, chain_id, seq) > (:at, :after_chain, :after_seq)
    ORDER BY at, chain_id, seq LIMIT :limit
) r
LEFT JOIN audit_positions p
    ON p.project_id = :project_id AND p.bucket = r.bucket AND p.chain_id = r.chain_id AND p.seq = r.seq
LEFT JOIN audit_positions b
    ON b.project_id = :project_id AND b.bucket = r.bucket AND b.chain_id = r.chain_id AND b.seq = r.seq - 1
ORDER BY r.at, r.chain_id, r.seq

-- from_key -> FoundRow --
-- Records behind a key: `placed` if they have a position.
SELECT r.bucket, r.chain_id, r.seq, r.at, p.seq IS NOT NULL AS placed, true AS preceded
FROM (
    SELECT bucket, chain_id, seq, at FROM audit_records
    WHERE project_id = :project_id AND (bucket, chain_id, seq) > (:bucket, :after_chain, :after_seq)
    ORDER BY bucket, chain_id, seq LIMIT :limit
) r
LEFT JOIN audit_positions p
    ON p.project_id = :project_id AND p.bucket = r.bucket AND p.chain_id = r.chain_id AND p.seq = r.seq
ORDER BY r.bucket, r.chain_id, r.seq

-- up_to -> FoundRow --
-- Records without a position in some chains, up to a number in each, the first ones of a chain first.
SELECT r.bucket, r.chain_id, r.seq, r.at, false AS placed, true AS preceded
FROM unnest(:buckets::smallint[], :chains::uuid[], :seqs::bigint[]) AS c (bucket, chain_id, seq)
JOIN audit_records r
    ON r.project_id = :project_id AND r.bucket = c.bucket AND r.chain_id = c.chain_id AND r.seq <= c.seq
LEFT JOIN audit_positions p
    ON p.project_id = :project_id AND p.bucket = r.bucket AND p.chain_id = r.chain_id AND p.seq = r.seq
WHERE p.seq IS NULL
ORDER BY r.bucket, r.chain_id, r.seq LIMIT :limit

-- assign --
-- Gives records the next positions of a project, in their order.
INSERT INTO audit_positions (project_id, position, bucket, chain_id, seq)
SELECT :project_id::uuid, last.position + e.number, e.bucket, e.chain_id, e.seq
FROM (SELECT coalesce(max(position), 0) AS position FROM audit_positions WHERE project_id = :project_id) last,
    unnest(:buckets::smallint[], :chains::uuid[], :seqs::bigint[])
        WITH ORDINALITY AS e (bucket, chain_id, seq, number)
