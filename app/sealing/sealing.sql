-- data_key --
SELECT master_id, wrapped FROM data_keys WHERE project_id = :project_id AND number = :number

-- data_keys --
SELECT number, master_id, wrapped FROM data_keys WHERE project_id = :project_id ORDER BY number

-- master_nodes --
SELECT nodes FROM master_nodes WHERE secret_id = :secret_id

-- state -> State --
-- How a project's row says that its contents are kept.
SELECT encrypted_at IS NOT NULL AS encrypted, coalesce(encrypted_at <= now(), false) AS seals,
    key_destroyed_at IS NOT NULL AS destroyed
FROM projects WHERE project_id = :project_id

-- told --
-- True if a project's contents are sealed by now, by its audit trail; NULL if the trail does not say that they are
-- encrypted. Someone who can write to the database can clear or move `projects.encrypted_at`.
SELECT min(at) < now() - interval '15 seconds' FROM audit_records
WHERE project_id = :project_id AND bucket = :bucket AND chain_id = :project_id AND action = 'project.encrypted'

-- cleared --
-- Projects whose audit trail says that they are encrypted, and whose row does not.
SELECT p.project_id, p.name FROM projects p JOIN (
    SELECT r.project_id, min(r.at) AS at FROM audit_records r
    WHERE r.chain_id = r.project_id AND r.action = 'project.encrypted' GROUP BY r.project_id
) told ON told.project_id = p.project_id
WHERE p.encrypted_at IS NULL OR p.encrypted_at > told.at + interval '1 minute'
ORDER BY p.name

-- opened_before --
-- How many turns were opened before contents were sealed: they are closed as they were opened.
SELECT count(*) AS count FROM turns t JOIN projects p ON p.project_id = t.project_id
WHERE t.project_id = :project_id AND t.status = 'in_progress'
    AND t.arrived_at < p.encrypted_at + interval '1 second'
