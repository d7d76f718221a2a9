-- data_key --
SELECT master_id, wrapped FROM data_keys WHERE project_id = :project_id AND number = :number

-- data_keys --
SELECT number, master_id, wrapped FROM data_keys WHERE project_id = :project_id ORDER BY number

-- master_nodes --
SELECT nodes FROM master_nodes WHERE secret_id = :secret_id

-- _encrypted_since --
-- Since when a project is encrypted, as its audit trail says. Whoever writes to the table can clear or move
-- `projects.encrypted_at`; the trail says so all the same.
LEFT JOIN LATERAL (
    SELECT min(r.at) FROM audit_records r
    WHERE r.project_id = p.project_id AND r.chain_id = p.project_id AND r.action = 'project.encrypted'
) AS told (at) ON true

-- state -> State --
-- How a project's contents are kept.
SELECT p.encrypted_at IS NOT NULL OR told.at IS NOT NULL AS encrypted,
    coalesce(p.encrypted_at <= now(), false) OR coalesce(told.at < now() - interval '1 minute', false) AS seals,
    p.key_destroyed_at IS NOT NULL AS destroyed
FROM projects p {_encrypted_since}
WHERE p.project_id = :project_id

-- cleared --
-- Projects whose audit trail says that they are encrypted, and whose row does not.
SELECT p.project_id, p.name FROM projects p {_encrypted_since}
WHERE told.at IS NOT NULL AND (p.encrypted_at IS NULL OR p.encrypted_at > told.at + interval '1 minute')
ORDER BY p.name

-- opened_before --
-- How many turns were opened before contents were sealed: they are closed as they were opened.
SELECT count(*) AS count FROM turns t JOIN projects p ON p.project_id = t.project_id
WHERE t.project_id = :project_id AND t.status = 'in_progress'
    AND t.arrived_at < p.encrypted_at + interval '1 second'
