-- data_key --
SELECT master_id, wrapped FROM data_keys WHERE project_id = :project_id AND number = :number

-- data_keys --
SELECT number, master_id, wrapped FROM data_keys WHERE project_id = :project_id ORDER BY number

-- master_nodes --
SELECT nodes FROM master_nodes WHERE secret_id = :secret_id

-- state -> State --
-- The state of a project's encryption, by its row.
SELECT encrypted_at IS NOT NULL AS encrypted, coalesce(encrypted_at <= now(), false) AS seals,
    key_destroyed_at IS NOT NULL AS destroyed
FROM projects WHERE project_id = :project_id

-- sealed_by_trail --
-- True if contents are sealed by now according to the project's audit trail; NULL if the trail records no encryption.
-- The row is not enough: someone who can write to the database can clear or move `projects.encrypted_at`.
SELECT min(at) < now() - interval '15 seconds' FROM audit_records
WHERE project_id = :project_id AND bucket = :bucket AND chain_id = :project_id AND action = 'project.encrypted'

-- altered_projects --
-- Projects whose `encrypted_at` does not match the audit trail, which records that they are encrypted.
SELECT p.project_id, p.name FROM projects p JOIN (
    SELECT r.project_id, min(r.at) AS at FROM audit_records r
    WHERE r.chain_id = r.project_id AND r.action = 'project.encrypted' GROUP BY r.project_id
) recorded ON recorded.project_id = p.project_id
WHERE p.encrypted_at IS NULL OR p.encrypted_at > recorded.at + interval '1 minute'
ORDER BY p.name

-- running_unsealed_turns --
-- The number of running turns that were opened before contents were sealed: they are closed unsealed too.
SELECT count(*) AS count FROM turns t JOIN projects p ON p.project_id = t.project_id
WHERE t.project_id = :project_id AND t.status = 'in_progress'
    AND t.arrived_at < p.encrypted_at + interval '1 second'
