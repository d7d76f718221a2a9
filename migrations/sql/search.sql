-- What is searched for: lexemes of titles and messages, in GIN indexes and nowhere else. What an index finds is looked
-- at again in the text itself (app/search/matching.py), so that an index may hold too much, but never too little:
-- app/items/lexemes.py folds in the same way, and says by which lexemes a text is asked for.
--
-- Postgres's own parsers find words between spaces. Chinese, Japanese, Korean, Thai, Lao, Khmer and Burmese are
-- written without them, or with endings stuck to the words: there, each pair of neighbouring characters is a lexeme,
-- and so is the last character of a run, so that every character begins one.

-- One that knows the case of all letters, of those that this server has.
DO $function$ BEGIN
    EXECUTE coalesce((
        SELECT format('CREATE COLLATION letters FROM %I.%I', n.nspname, c.collname)
        FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
        WHERE c.collname = ANY ('{pg_c_utf8,und-x-icu,C.utf8,en_US.utf8}')
            AND c.collencoding IN (-1, pg_char_to_encoding('UTF8'))
        ORDER BY array_position('{pg_c_utf8,und-x-icu,C.utf8,en_US.utf8}', c.collname::text) LIMIT 1
    ), 'CREATE COLLATION letters (LOCALE = "C")');
END $function$;

-- Without case, accents, and differences of width.
CREATE FUNCTION folded_v1(said text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT RETURN
    replace(replace(
        lower(normalize(
            regexp_replace(normalize(said, NFKD) COLLATE "C", '[\u0300-\u036f]+', '', 'g'), NFC
        ) COLLATE letters), 'ß', 'ss'
    ), 'ς', 'σ');

-- Lexemes of a text that is not ASCII alone.
CREATE FUNCTION foreign_lexemes_v1(said text) RETURNS tsvector LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT COST 10000
AS $function$
DECLARE
    unspaced CONSTANT text := '\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3130-\u318f'
        || '\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff66-\uff9f'
        || '\U00020000-\U0003ffff';
    between CONSTANT text :=
        '\x01-\x2f\x3a-\x40\x5b-\x60\x7b-\x7f\u0080-\u00bf\u00d7\u00f7\u02c2-\u02c5\u02d2-\u02eb\u02ed\u02ef-\u02ff'
        || '\u0375\u03f6\u0482\u055a-\u055f\u0589-\u058f\u05be\u05c0\u05c3\u05c6\u05f3-\u060f\u061b-\u061f\u066a-\u066d'
        || '\u06d4\u06dd-\u06de\u06e9\u06fd-\u06fe\u0700-\u070f\u07f6-\u07f9\u07fe-\u07ff\u0830-\u083e\u085e\u0888'
        || '\u0890-\u0891\u08e2\u0964-\u0965\u0970\u09f2-\u09f3\u09fa-\u09fb\u09fd\u0a76\u0af0-\u0af1\u0b70\u0bf3-\u0bfa'
        || '\u0c77\u0c7f\u0c84\u0d4f\u0d79\u0df4\u0f01-\u0f17\u0f1a-\u0f1f\u0f34\u0f36\u0f38\u0f3a-\u0f3d\u0f85'
        || '\u0fbe-\u0fc5\u0fc7-\u0fda\u10fb\u1360-\u1368\u1390-\u1399\u1400\u166d-\u166e\u1680\u169b-\u169c'
        || '\u16eb-\u16ed\u1735-\u1736\u1800-\u180a\u180e\u1940-\u1945\u19de-\u19ff\u1a1e-\u1a1f\u1aa0-\u1aa6'
        || '\u1aa8-\u1aad\u1b5a-\u1b6a\u1b74-\u1b7e\u1bfc-\u1bff\u1c3b-\u1c3f\u1c7e-\u1c7f\u1cc0-\u1cc7\u1cd3'
        || '\u200b-\u20c0\u2104-\u212e\u213a-\u214d\u214f\u218a-\u244a\u2500-\u2775\u2794-\u2bff\u2ce5-\u2cea'
        || '\u2cf9-\u2cfc\u2cfe-\u2cff\u2d70\u2e00-\u2e2e\u2e30-\u2e7f\u2fe0-\u3004\u3008-\u3020\u3030\u3037'
        || '\u303d-\u303f\u3190-\u3191\u31c0-\u31e3\u327f\u4dc0-\u4dff\ua490-\ua4c6\ua4fe-\ua4ff\ua60d-\ua60f\ua673'
        || '\ua67e\ua6f2-\ua716\ua720-\ua721\ua789-\ua78a\ua828-\ua82b\ua836-\ua839\ua874-\ua877\ua8ce-\ua8cf'
        || '\ua8f8-\ua8fa\ua8fc\ua92e-\ua92f\ua95f\ua9c1-\ua9cd\ua9de-\ua9df\uaa5c-\uaa5f\uaa77-\uaa79\uaade-\uaadf'
        || '\uaaf0-\uaaf1\uab5b\uab6a-\uab6b\uabeb\ufbb2-\ufdff\ufe45-\ufe46\ufeff-\uff65\uffa0-\ufffd';
    runs CONSTANT text := '([' || unspaced || ']+)|'
        || '([^ ' || unspaced || ']*[^\x01-\x7f' || unspaced || '][^ ' || unspaced || ']*)';
    folded text;
    found text[];
BEGIN
    -- A tsvector holds less than a megabyte: each character is in two lexemes at most, and has four bytes.
    folded := left(regexp_replace(folded_v1(said) COLLATE "C", '[' || between || ']+', ' ', 'g'), 100000);
    SELECT array_agg(part) INTO found FROM (
        SELECT unnest(CASE
            WHEN run[1] IS NULL THEN ARRAY[left(run[2], 100)]
            ELSE ARRAY(
                SELECT character || coalesce(next, '') FROM
                    unnest(string_to_array(run[1], NULL), (string_to_array(run[1], NULL))[2:]) AS pair (character, next)
            )
        END) AS part
        FROM regexp_matches(folded COLLATE "C", runs, 'g') AS run
    ) AS parts;
    RETURN to_tsvector('pg_catalog.simple', regexp_replace(folded COLLATE "C", '[^\x01-\x7f]+', ' ', 'g'))
        || array_to_tsvector(coalesce(found, '{}'));
END
$function$;

CREATE FUNCTION lexemes_v1(said text, marks text[]) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT COST 10000 AS $function$
BEGIN
    said := left(said, 200000);
    IF octet_length(said) <> char_length(said) THEN
        -- Dashes, quotes and arrows stand in many a text that is plain ASCII else, which is quick.
        said := regexp_replace(
            said COLLATE "C", '[\u2010-\u2027\u2030-\u205e\u2190-\u21ff\u2500-\u2775\u2794-\u27bf]+', ' ', 'g'
        );
        IF octet_length(said) <> char_length(said) THEN
            RETURN array_to_tsvector(marks) || foreign_lexemes_v1(said);
        END IF;
    END IF;
    -- What Postgres's parser would take words together by ('well-known', 'example.com', '<b>') is made a space.
    RETURN array_to_tsvector(marks)
        || to_tsvector('pg_catalog.simple', regexp_replace(lower(said COLLATE "C"), '[-./@_<&+]', ' ', 'g'));
END
$function$;

-- A message's words; a refusal's too.
CREATE FUNCTION message_text_v1(data json) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $function$
DECLARE
    content json := data->'content';
BEGIN
    IF json_typeof(content) = 'string' THEN RETURN data->>'content'; END IF;
    IF json_typeof(content) <> 'array' THEN RETURN ''; END IF;
    -- Of nearly all there is one part, which is quick.
    IF json_array_length(content) = 1 AND content->0->>'text' <> '' THEN RETURN content->0->>'text'; END IF;
    RETURN (
        SELECT string_agg(coalesce(nullif(part->>'text', ''), part->>'refusal', ''), '')
        FROM json_array_elements(content) AS part
    );
END
$function$;

-- A project and a role are a lexeme too, so that a search reads nothing of others; and with them the time that stands in
-- the turn's id, to 2^24, 2^28 and 2^32 ms (five hours, three days, fifty days): of a word that stands everywhere, only
-- the newest are read. An index's expression is one function in PL/pgSQL: one in SQL would be parsed anew for each row that
-- is written.
CREATE FUNCTION message_lexemes_v1(project uuid, turn uuid, data json) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE COST 10000 AS $function$
DECLARE
    role text := data->>'role';
    id text := encode(uuid_send(turn), 'hex');
    mark text;
BEGIN
    IF role IN ('user', 'assistant') THEN
        mark := '=' || role || encode(uuid_send(project), 'hex');
        RETURN lexemes_v1(
            coalesce(message_text_v1(data), ''),
            ARRAY[mark, mark || '=' || left(id, 4), mark || '=' || left(id, 5), mark || '=' || left(id, 6)]
        );
    END IF;
    RETURN NULL;
END
$function$;

CREATE FUNCTION title_lexemes_v1(project uuid, title text) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE COST 10000 AS $function$
BEGIN
    RETURN lexemes_v1(title, ARRAY['=title' || encode(uuid_send(project), 'hex')]);
END
$function$;
