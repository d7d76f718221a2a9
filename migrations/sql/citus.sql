-- The tables over the nodes of a Citus cluster, by bucket. Nothing else differs from one Postgres.
--
-- A trigger on a shard can read no other table: nothing would be kept. Holds are refused instead.
DROP TRIGGER threads_keep ON threads;
DROP TRIGGER turns_keep_row ON turns;
DROP TRIGGER turns_keep_whole ON turns;
DROP TRIGGER turns_keep_age ON turns;
DROP TRIGGER threads_keep_age ON threads;
DROP TRIGGER items_keep ON items;
DROP TRIGGER calls_keep ON calls;
DROP TRIGGER item_media_keep ON item_media;
DROP TRIGGER compactions_keep ON compactions;
DROP TRIGGER compactions_keep_text ON compactions;
DROP TRIGGER feedback_keep ON feedback;
DROP TRIGGER shares_keep ON shares;
DROP TRIGGER pieces_keep ON pieces;
DROP TRIGGER media_keep ON media;
DROP TRIGGER user_keys_keep ON user_keys;
DROP TRIGGER held_rows_guard ON held_rows;
DROP TRIGGER threads_truncate ON threads;
DROP TRIGGER turns_truncate ON turns;
DROP TRIGGER items_truncate ON items;
DROP TRIGGER calls_truncate ON calls;
DROP TRIGGER item_media_truncate ON item_media;
DROP TRIGGER media_truncate ON media;
DROP TRIGGER pieces_truncate ON pieces;
DROP TRIGGER compactions_truncate ON compactions;
DROP TRIGGER feedback_truncate ON feedback;
DROP TRIGGER shares_truncate ON shares;
DROP TRIGGER user_keys_truncate ON user_keys;
DROP TRIGGER held_rows_truncate ON held_rows;
DROP TRIGGER data_keys_keep ON data_keys;
DROP TRIGGER data_keys_truncate ON data_keys;
DROP TRIGGER projects_keep_key ON projects;
DROP TRIGGER holds_guard ON holds;
DROP TRIGGER holds_truncate ON holds;
ALTER TABLE holds ADD CONSTRAINT holds_distributed_check CHECK (false);
DROP TRIGGER projects_minimum_retention ON projects;
ALTER TABLE projects ADD CONSTRAINT projects_distributed_check CHECK (minimum_retention_days IS NULL);

-- What is small, or read with everything, is on every node.
SELECT create_reference_table('projects');
SELECT create_reference_table('api_keys');
SELECT create_reference_table('console_sessions');
SELECT create_reference_table('user_cutoffs');
SELECT create_reference_table('claimed_audiences');
SELECT create_reference_table('stream_tickets');
SELECT create_reference_table('user_presets');
SELECT create_reference_table('data_keys');
SELECT create_reference_table('master_nodes');
SELECT create_reference_table('accounts');
SELECT create_reference_table('cache_keys');
SELECT create_reference_table('audit_leaves');
SELECT create_reference_table('audit_checkpoints');
SELECT create_reference_table('audit_origins');
SELECT create_reference_table('audit_cosignatures');
SELECT create_reference_table('audit_witnesses');
SELECT create_reference_table('audit_keys');
SELECT create_reference_table('audit_positions');
SELECT create_reference_table('audit_streams');
SELECT create_reference_table('user_purges');
SELECT create_reference_table('purge_records');
SELECT create_reference_table('purge_certificates');
SELECT create_reference_table('learnt_models');
SELECT create_reference_table('webhooks');
SELECT create_reference_table('webhook_deliveries');
SELECT create_reference_table('turn_hours');
SELECT create_reference_table('holds');

-- Whoever migrates takes the foreign keys among these away before, and puts them back.
SELECT create_distributed_table('threads', 'bucket');
SELECT create_distributed_table('thread_activity', 'bucket', colocate_with => 'threads');
SELECT create_distributed_table('turns', 'bucket', colocate_with => 'threads');
SELECT create_distributed_table('items', 'bucket', colocate_with => 'threads');
SELECT create_distributed_table('media', 'bucket', colocate_with => 'threads');
SELECT create_distributed_table('item_media', 'bucket', colocate_with => 'threads');
SELECT create_distributed_table('calls', 'bucket', colocate_with => 'threads');
SELECT create_distributed_table('pieces', 'bucket', colocate_with => 'threads');
SELECT create_distributed_table('compactions', 'bucket', colocate_with => 'threads');
SELECT create_distributed_table('feedback', 'bucket', colocate_with => 'threads');
SELECT create_distributed_table('shares', 'bucket', colocate_with => 'threads');
SELECT create_distributed_table('waiters', 'bucket', colocate_with => 'threads');
SELECT create_distributed_table('audit_records', 'bucket', colocate_with => 'threads');
SELECT create_distributed_table('provider_deletions', 'bucket', colocate_with => 'threads');
SELECT create_distributed_table('thread_names', 'bucket', colocate_with => 'threads');
SELECT create_distributed_table('user_keys', 'bucket', colocate_with => 'threads');
SELECT create_distributed_table('charges', 'bucket', colocate_with => 'threads');
SELECT create_distributed_table('usage_sums', 'bucket', colocate_with => 'threads');
SELECT create_distributed_table('held_rows', 'bucket', colocate_with => 'threads');

-- A trigger on a shard can look at no other row: there, only the service's own checks say whose turn a parent or a head
-- is, and verification which records follow.
CREATE OR REPLACE FUNCTION by_function() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE RETURN true;

SELECT create_distributed_function(p.oid::regprocedure) FROM pg_proc p
WHERE p.pronamespace = 'public'::regnamespace AND p.prorettype <> 'trigger'::regtype AND p.proname IN (
    'bucket_of', 'refuse_row', 'by_function', 'in_history', 'token_count', 'record_hash_v2', 'trail_digest_v1',
    'keep_media_v1'
);

-- What opens and closes a turn, and what appends to its trail, runs where the bucket is.
SELECT create_distributed_function(
    p.oid::regprocedure, CASE WHEN p.proname LIKE 'append_records%' THEN 'p_bucket' ELSE 'b' END,
    colocate_with => 'threads', force_delegation => true
) FROM pg_proc p
WHERE p.pronamespace = 'public'::regnamespace AND p.proname IN (
    'open_turn_v3', 'open_turn_v4', 'close_turn_v3', 'close_turn_v4', 'append_records_v2'
);

-- Citus before the mending of its issue 8371 keeps a plan for each execution of a statement in a function, without end.
ALTER FUNCTION open_turn_v3 SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION open_turn_v4 SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION close_turn_v3 SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION close_turn_v4 SET plan_cache_mode = force_custom_plan;
ALTER FUNCTION append_records_v2 SET plan_cache_mode = force_custom_plan;
