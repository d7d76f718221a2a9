-- add_hour --
-- Adds turns of an hour to what is counted of it.
INSERT INTO turn_hours AS t (project_id, hour, model, outcome, turns, durations, first_words)
VALUES (:project_id, :hour, :model, :outcome, :turns, :durations, :first_words)
ON CONFLICT (project_id, hour, model, outcome) DO UPDATE SET turns = t.turns + excluded.turns,
    durations = added_v1(t.durations, excluded.durations), first_words = added_v1(t.first_words, excluded.first_words)

-- hours -> HourRow --
SELECT hour, model, outcome, turns, durations, first_words FROM turn_hours
WHERE project_id = :project_id AND hour >= :since AND hour < :until ORDER BY hour, model, outcome LIMIT :limit
