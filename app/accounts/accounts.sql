-- usable --
-- The accounts of a project, and the shared ones.
SELECT a.project_id, a.id, a.name, a.position, a.weight, a.base_url, a.api_key, a.models, a.shared, a.disabled,
    p.operates
FROM accounts a JOIN projects p ON p.project_id = a.project_id
WHERE a.project_id = :project_id OR a.shared ORDER BY a.position, a.id
