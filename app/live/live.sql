-- running --
-- The turns in progress of a project, a user or a thread, the latest first.
SELECT t.thread_id, t.id FROM turns t
JOIN threads th ON th.project_id = :project_id AND th.bucket = t.bucket AND th.id = t.thread_id
WHERE t.project_id = :project_id AND t.status = 'in_progress' AND (:of_user::text IS NULL OR th.user_id = :of_user)
    AND (:thread_id::uuid IS NULL OR th.id = :thread_id)
ORDER BY t.id DESC LIMIT :limit
