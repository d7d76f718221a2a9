-- keep --
-- Stores the media that were extracted from a turn's items: see keep_media_v1 in migrations/schema.sql.
SELECT keep_media_v1(:project_id::uuid, :bucket::smallint, :thread_id::uuid, :turn_id::uuid, :media::text)

-- held --
-- The media of items, with their places.
SELECT i.turn_id, i.position, i.place, m.id, m.data
FROM unnest(:buckets::smallint[], :turn_ids::uuid[], :positions::integer[]) AS wanted (bucket, turn_id, position)
JOIN item_media i ON i.project_id = :project_id AND i.bucket = wanted.bucket AND i.turn_id = wanted.turn_id
    AND i.position = wanted.position
JOIN media m ON m.project_id = :project_id AND m.bucket = i.bucket AND m.id = i.media_id

-- lock --
-- Locks the media of turns before their items are deleted: of two transactions that delete the last two references to a
-- medium, the second finds it unreferenced.
SELECT m.id FROM media m
WHERE m.project_id = :project_id AND m.bucket = :bucket AND m.id IN (
    SELECT i.media_id FROM item_media i
    WHERE i.project_id = :project_id AND i.bucket = :bucket AND i.turn_id = ANY(:turn_ids::uuid[])
)
ORDER BY m.id FOR UPDATE

-- release --
-- Deletes those of the given media that no item refers to.
DELETE FROM media m
WHERE m.project_id = :project_id AND m.bucket = :bucket AND m.id = ANY(:media_ids::uuid[]) AND NOT EXISTS (
    SELECT FROM item_media i WHERE i.project_id = :project_id AND i.bucket = :bucket AND i.media_id = m.id
)
