-- What a turn costs without changing what it does.

-- STABLE is what they are, by convert_to and to_char, and as such they are a part of the expression that calls them. Said to
-- be IMMUTABLE, each call was a statement of its own: a sixteenth of a turn.
ALTER FUNCTION record_hash_v1 STABLE;
ALTER FUNCTION trail_digest_v1 STABLE;

-- A CHECK is parsed anew by each statement that writes to its table, whatever columns it writes.
CREATE FUNCTION threads_ttl_guard() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF (NEW.ttl_seconds IS NULL) <> (NEW.expires_at IS NULL) THEN PERFORM refuse_row('threads_ttl_check'); END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER threads_ttl_guard BEFORE INSERT OR UPDATE OF ttl_seconds, expires_at ON threads
    FOR EACH ROW EXECUTE FUNCTION threads_ttl_guard();
ALTER TABLE threads DROP CONSTRAINT threads_ttl_check;
