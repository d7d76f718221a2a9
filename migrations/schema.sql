-- The whole schema of this release. An empty database gets it in one transaction; every other database is upgraded by the
-- numbered files in migrations/versions. A migration changes this file too: tests/test_migrations.py compares a database
-- made by this file with an upgraded one.
--
-- Sections: types and helpers, search, projects, threads, turns, the audit trail, other tables, guards, legal holds,
-- functions that write turns, functions for reading, data.
--
-- Rules for tables:
-- * Every row of a thread carries the thread's bucket, so that all rows of a thread are stored on one shard. Every primary
--   key and foreign key of project data begins with project_id, so that no reference crosses projects.
-- * The primary key of a busy table is created after its other indexes. On a table without statistics, the planner
--   considers the full key and the two leading columns equally selective, and prefers the index that was created last.
-- * Rules for whole rows are checked by one trigger per table, not by CHECK constraints: PostgreSQL parses those again for
--   each statement, which cost more than the row itself (22 of 31 microseconds for a turn). Rules for a single value are
--   checked by a domain.
-- * Tables that are updated or deleted from with each turn are vacuumed when a twentieth of their rows is dead.
-- * A function that changes gets a new name (the next _v number), so that workers of two releases can run side by side.

-- =====================================================================================================================
-- Types and helpers
-- =====================================================================================================================
CREATE DOMAIN item_origin AS text CONSTRAINT items_origin_check CHECK (VALUE IN ('input', 'output'));
CREATE DOMAIN item_position AS integer CONSTRAINT items_position_check CHECK (VALUE >= 0);
CREATE DOMAIN call_continuation AS text
    CONSTRAINT calls_continuation_check CHECK (VALUE IN ('new', 'chained', 'rebuilt'));
CREATE DOMAIN call_attempt AS integer CONSTRAINT calls_attempt_check CHECK (VALUE >= 1);

-- Return the bucket encoded in the last ten bits of a thread or turn id. app/db/ids.py computes the same.
CREATE FUNCTION bucket_of(id uuid) RETURNS smallint LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    (((get_byte(uuid_send(id), 14) & 3) << 8) | get_byte(uuid_send(id), 15))::smallint;

-- Raise an error that names a constraint. A name that ends in _fkey is reported as a foreign key violation.
CREATE FUNCTION refuse_row(wrong text) RETURNS void LANGUAGE plpgsql AS $function$
BEGIN
    RAISE EXCEPTION 'the row is refused by %', wrong USING
        ERRCODE = CASE WHEN wrong LIKE '%\_fkey' THEN 'foreign_key_violation' ELSE 'check_violation' END,
        CONSTRAINT = wrong;
END
$function$;

-- True while open_turn, close_turn or append_records run: they have checked already what the guards check. They set this
-- flag themselves and not by a SET clause in their definition, which requires a superuser.
CREATE FUNCTION by_function() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE RETURN
    coalesce(current_setting('everthread.function', true), '') <> '';

-- Add two arrays element by element.
CREATE FUNCTION added_v1(one bigint[], other bigint[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN (
    SELECT array_agg(coalesce(a, 0) + coalesce(b, 0) ORDER BY place)
    FROM unnest(one, other) WITH ORDINALITY AS each (a, b, place)
);

-- Return a token count as an integer: 0 if the value is not a number, at most the largest integer that JSON can represent
-- exactly.
CREATE FUNCTION token_count(reported json) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $function$
    SELECT CASE WHEN json_typeof(reported) = 'number'
        THEN trunc(greatest(0, least(reported::text::float8, 9007199254740991)))::bigint ELSE 0 END
$function$;

-- =====================================================================================================================
-- Search
--
-- Lexemes of titles and messages are stored in GIN indexes only. Each index hit is checked again against the text
-- (app/search/matching.py), so an index may contain too many lexemes but never too few. app/items/lexemes.py folds texts
-- in the same way and computes the lexemes of a query.
--
-- PostgreSQL's parser splits words at spaces. Chinese, Japanese, Korean, Thai, Lao, Khmer and Burmese are written without
-- spaces, or with endings attached to words. In these scripts each pair of neighbouring characters is a lexeme, and so is
-- the last character of a run, so that every character begins a lexeme.
-- =====================================================================================================================
-- The best collation of this server that knows upper and lower case of all letters.
DO $function$ BEGIN
    EXECUTE coalesce((
        SELECT format('CREATE COLLATION letters FROM %I.%I', n.nspname, c.collname)
        FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
        WHERE c.collname = ANY ('{pg_c_utf8,und-x-icu,C.utf8,en_US.utf8}')
            AND c.collencoding IN (-1, pg_char_to_encoding('UTF8'))
        ORDER BY array_position('{pg_c_utf8,und-x-icu,C.utf8,en_US.utf8}', c.collname::text) LIMIT 1
    ), 'CREATE COLLATION letters (LOCALE = "C")');
END $function$;

-- Fold a text for comparison: without case, accents, differences of width, variation selectors and invisible characters.
-- Runs of combining characters are cut after 30, because normalize() takes quadratic time for a run and cannot be
-- cancelled.
CREATE FUNCTION folded_v1(said text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE STRICT RETURN
    replace(replace(
        lower(normalize(
            regexp_replace(
                normalize(
                    regexp_replace(said COLLATE "C", '([\u0300-\u034e\u0350-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u0711\u0730-\u074a\u07eb-\u07f3\u07fd\u0816-\u0819\u081b-\u0823\u0825-\u0827\u0829-\u082d\u0859-\u085b\u0898-\u089f\u08ca-\u08e1\u08e3-\u08ff\u093c\u094d\u0951-\u0954\u09bc\u09cd\u09fe\u0a3c\u0a4d\u0abc\u0acd\u0b3c\u0b4d\u0bcd\u0c3c\u0c4d-\u0c56\u0cbc\u0ccd\u0d3b\u0d3c\u0d4d\u0dca\u0e38-\u0e3a\u0e48-\u0e4b\u0eb8-\u0eba\u0ec8-\u0ecb\u0f18\u0f19\u0f35\u0f37\u0f39\u0f71-\u0f75\u0f7a-\u0f7d\u0f80-\u0f84\u0f86\u0f87\u0fc6\u1037\u1039\u103a\u108d\u135d-\u135f\u1714\u1715\u1734\u17d2\u17dd\u18a9\u1939-\u193b\u1a17\u1a18\u1a60\u1a75-\u1a7f\u1ab0-\u1abd\u1abf-\u1ace\u1b34\u1b44\u1b6b-\u1b73\u1baa\u1bab\u1be6\u1bf2\u1bf3\u1c37\u1cd0-\u1cd2\u1cd4-\u1ce0\u1ce2-\u1ce8\u1ced\u1cf4\u1cf8\u1cf9\u1dc0-\u1dff\u20d0-\u20dc\u20e1\u20e5-\u20f0\u2cef-\u2cf1\u2d7f\u2de0-\u2dff\u302a-\u302f\u3099\u309a\ua66f\ua674-\ua67d\ua69e\ua69f\ua6f0\ua6f1\ua806\ua82c\ua8c4\ua8e0-\ua8f1\ua92b-\ua92d\ua953\ua9b3\ua9c0\uaab0\uaab2-\uaab4\uaab7\uaab8\uaabe\uaabf\uaac1\uaaf6\uabed\ufb1e\ufe20-\ufe2f\uff9e\uff9f\U000101fd\U000102e0\U00010376-\U0001037a\U00010a0d\U00010a0f\U00010a38-\U00010a3f\U00010ae5\U00010ae6\U00010d24-\U00010d27\U00010eab\U00010eac\U00010f46-\U00010f50\U00010f82-\U00010f85\U00011046\U00011070\U0001107f\U000110b9\U000110ba\U00011100-\U00011102\U00011133\U00011134\U00011173\U000111c0\U000111ca\U00011235\U00011236\U000112e9\U000112ea\U0001133b\U0001133c\U0001134d\U00011366-\U00011374\U00011442\U00011446\U0001145e\U000114c2\U000114c3\U000115bf\U000115c0\U0001163f\U000116b6\U000116b7\U0001172b\U00011839\U0001183a\U0001193d\U0001193e\U00011943\U000119e0\U00011a34\U00011a47\U00011a99\U00011c3f\U00011d42\U00011d44\U00011d45\U00011d97\U00016af0-\U00016af4\U00016b30-\U00016b36\U00016ff0\U00016ff1\U0001bc9e\U0001d165-\U0001d169\U0001d16d-\U0001d172\U0001d17b-\U0001d182\U0001d185-\U0001d18b\U0001d1aa-\U0001d1ad\U0001d242-\U0001d244\U0001e000-\U0001e02a\U0001e130-\U0001e136\U0001e2ae\U0001e2ec-\U0001e2ef\U0001e8d0-\U0001e8d6\U0001e944-\U0001e94a]{30})[\u0300-\u034e\u0350-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u0711\u0730-\u074a\u07eb-\u07f3\u07fd\u0816-\u0819\u081b-\u0823\u0825-\u0827\u0829-\u082d\u0859-\u085b\u0898-\u089f\u08ca-\u08e1\u08e3-\u08ff\u093c\u094d\u0951-\u0954\u09bc\u09cd\u09fe\u0a3c\u0a4d\u0abc\u0acd\u0b3c\u0b4d\u0bcd\u0c3c\u0c4d-\u0c56\u0cbc\u0ccd\u0d3b\u0d3c\u0d4d\u0dca\u0e38-\u0e3a\u0e48-\u0e4b\u0eb8-\u0eba\u0ec8-\u0ecb\u0f18\u0f19\u0f35\u0f37\u0f39\u0f71-\u0f75\u0f7a-\u0f7d\u0f80-\u0f84\u0f86\u0f87\u0fc6\u1037\u1039\u103a\u108d\u135d-\u135f\u1714\u1715\u1734\u17d2\u17dd\u18a9\u1939-\u193b\u1a17\u1a18\u1a60\u1a75-\u1a7f\u1ab0-\u1abd\u1abf-\u1ace\u1b34\u1b44\u1b6b-\u1b73\u1baa\u1bab\u1be6\u1bf2\u1bf3\u1c37\u1cd0-\u1cd2\u1cd4-\u1ce0\u1ce2-\u1ce8\u1ced\u1cf4\u1cf8\u1cf9\u1dc0-\u1dff\u20d0-\u20dc\u20e1\u20e5-\u20f0\u2cef-\u2cf1\u2d7f\u2de0-\u2dff\u302a-\u302f\u3099\u309a\ua66f\ua674-\ua67d\ua69e\ua69f\ua6f0\ua6f1\ua806\ua82c\ua8c4\ua8e0-\ua8f1\ua92b-\ua92d\ua953\ua9b3\ua9c0\uaab0\uaab2-\uaab4\uaab7\uaab8\uaabe\uaabf\uaac1\uaaf6\uabed\ufb1e\ufe20-\ufe2f\uff9e\uff9f\U000101fd\U000102e0\U00010376-\U0001037a\U00010a0d\U00010a0f\U00010a38-\U00010a3f\U00010ae5\U00010ae6\U00010d24-\U00010d27\U00010eab\U00010eac\U00010f46-\U00010f50\U00010f82-\U00010f85\U00011046\U00011070\U0001107f\U000110b9\U000110ba\U00011100-\U00011102\U00011133\U00011134\U00011173\U000111c0\U000111ca\U00011235\U00011236\U000112e9\U000112ea\U0001133b\U0001133c\U0001134d\U00011366-\U00011374\U00011442\U00011446\U0001145e\U000114c2\U000114c3\U000115bf\U000115c0\U0001163f\U000116b6\U000116b7\U0001172b\U00011839\U0001183a\U0001193d\U0001193e\U00011943\U000119e0\U00011a34\U00011a47\U00011a99\U00011c3f\U00011d42\U00011d44\U00011d45\U00011d97\U00016af0-\U00016af4\U00016b30-\U00016b36\U00016ff0\U00016ff1\U0001bc9e\U0001d165-\U0001d169\U0001d16d-\U0001d172\U0001d17b-\U0001d182\U0001d185-\U0001d18b\U0001d1aa-\U0001d1ad\U0001d242-\U0001d244\U0001e000-\U0001e02a\U0001e130-\U0001e136\U0001e2ae\U0001e2ec-\U0001e2ef\U0001e8d0-\U0001e8d6\U0001e944-\U0001e94a]+', '\1', 'g'), NFKD
                ) COLLATE "C", '[\u0300-\u036f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+', '', 'g'
            ), NFC
        ) COLLATE letters), 'ß', 'ss'
    ), 'ς', 'σ');

-- Return the lexemes of a text that is not only ASCII. Emoji are treated as a script without spaces.
CREATE FUNCTION foreign_lexemes_v1(said text) RETURNS tsvector LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT COST 10000
AS $function$
DECLARE
    unspaced CONSTANT text := '\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff'
        || '\u3130-\u318f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff'
        || '\uff66-\uff9f\U00020000-\U0003ffff\u00a9\u00ae\u2194-\u2199\u21a9\u21aa\u231a\u231b\u2328\u23cf'
        || '\u23e9-\u23f3\u23f8-\u23fa\u25aa\u25ab\u25b6\u25c0\u25fb-\u25fe\u2600-\u27bf\u2934\u2935'
        || '\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55\u3030\u303d\U0001f000-\U0001f0ff\U0001f170\U0001f171\U0001f17e'
        || '\U0001f17f\U0001f18e\U0001f191-\U0001f19a\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff';
    between CONSTANT text :=
        '\x01-\x2f\x3a-\x40\x5b-\x60\x7b-\u00a8\u00aa-\u00ad\u00af-\u00bf\u00d7\u00f7\u02c2-\u02c5'
        || '\u02d2-\u02eb\u02ed\u02ef-\u02ff\u0375\u03f6\u0482\u055a-\u055f\u0589-\u058f\u05be\u05c0\u05c3\u05c6'
        || '\u05f3-\u060f\u061b-\u061f\u066a-\u066d\u06d4\u06dd\u06de\u06e9\u06fd\u06fe\u0700-\u070f'
        || '\u07f6-\u07f9\u07fe\u07ff\u0830-\u083e\u085e\u0888\u0890\u0891\u08e2\u0964\u0965\u0970\u09f2\u09f3'
        || '\u09fa\u09fb\u09fd\u0a76\u0af0\u0af1\u0b70\u0bf3-\u0bfa\u0c77\u0c7f\u0c84\u0d4f\u0d79\u0df4'
        || '\u0f01-\u0f17\u0f1a-\u0f1f\u0f34\u0f36\u0f38\u0f3a-\u0f3d\u0f85\u0fbe-\u0fc5\u0fc7-\u0fda\u10fb'
        || '\u1360-\u1368\u1390-\u1399\u1400\u166d\u166e\u1680\u169b\u169c\u16eb-\u16ed\u1735\u1736\u1800-\u180a'
        || '\u180e\u1940-\u1945\u19de-\u19ff\u1a1e\u1a1f\u1aa0-\u1aa6\u1aa8-\u1aad\u1b5a-\u1b6a\u1b74-\u1b7e'
        || '\u1bfc-\u1bff\u1c3b-\u1c3f\u1c7e\u1c7f\u1cc0-\u1cc7\u1cd3\u200b-\u20c0\u2104-\u212e\u213a-\u214d'
        || '\u214f\u218a-\u2193\u219a-\u21a8\u21ab-\u2319\u231c-\u2327\u2329-\u23ce\u23d0-\u23e8\u23f4-\u23f7'
        || '\u23fb-\u244a\u2500-\u25a9\u25ac-\u25b5\u25b7-\u25bf\u25c1-\u25fa\u25ff\u27c0-\u2933\u2936-\u2b04'
        || '\u2b08-\u2b1a\u2b1d-\u2b4f\u2b51-\u2b54\u2b56-\u2bff\u2ce5-\u2cea\u2cf9-\u2cfc\u2cfe\u2cff\u2d70'
        || '\u2e00-\u2e2e\u2e30-\u2e7f\u2fe0-\u3004\u3008-\u3020\u3037\u303e\u303f\u3190\u3191\u31c0-\u31e3'
        || '\u327f\u4dc0-\u4dff\ua490-\ua4c6\ua4fe\ua4ff\ua60d-\ua60f\ua673\ua67e\ua6f2-\ua716\ua720\ua721\ua789'
        || '\ua78a\ua828-\ua82b\ua836-\ua839\ua874-\ua877\ua8ce\ua8cf\ua8f8-\ua8fa\ua8fc\ua92e\ua92f\ua95f'
        || '\ua9c1-\ua9cd\ua9de\ua9df\uaa5c-\uaa5f\uaa77-\uaa79\uaade\uaadf\uaaf0\uaaf1\uab5b\uab6a\uab6b\uabeb'
        || '\ufbb2-\ufdff\ufe45\ufe46\ufeff-\uff65\uffa0-\ufffd';
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

-- Return the lexemes of a text and the marks given. REINDEX and pg_restore call this with an empty search_path.
CREATE FUNCTION lexemes_v1(said text, marks text[]) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT COST 10000 SET search_path = "$user", public AS $function$
BEGIN
    said := left(said, 200000);
    IF octet_length(said) <> char_length(said) THEN
        -- Dashes, quotes, arrows and frames stand in many a text that is plain ASCII else, which is quick.
        said := regexp_replace(
            said COLLATE "C", '[\u2010-\u2027\u2030-\u205e\u2190-\u2193\u219a-\u21a8\u21ab-\u21ff\u2500-\u25a9\u25ac-\u25b5\u25b7-\u25bf\u25c1-\u25fa\u25ff]+', ' ', 'g'
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

-- Return the text of a message, or of a refusal.
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

-- Return the lexemes of a message. The marks are the project and the role, so that a search reads no other project's
-- entries, combined with the time encoded in the turn id, to 2^24, 2^28 and 2^32 ms (5 hours, 3 days, 50 days), so that
-- for a frequent word only the newest entries are read. An index expression is a single PL/pgSQL function, because an SQL
-- function would be parsed again for each row written. Nearly all messages are one plain text, and need no other function.
-- Functions are named with their schema, because REINDEX and pg_restore call this with an empty search_path, and a SET
-- clause costs more with each call.
CREATE FUNCTION message_lexemes_v1(project uuid, turn uuid, data json) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE COST 10000 AS $function$
DECLARE
    role text := coalesce(data->>'role', data->1->>'role', '');
    mark text;
    marks text[];
    content json;
    said text;
BEGIN
    IF role NOT IN ('user', 'assistant') THEN RETURN NULL; END IF;
    mark := '=' || role || encode(uuid_send(project), 'hex');
    marks := ARRAY[
        mark, mark || '=' || left(turn::text, 4), mark || '=' || left(turn::text, 5), mark || '=' || left(turn::text, 6)
    ];
    content := data->'content';
    said := CASE json_typeof(content)
        WHEN 'string' THEN data->>'content'
        WHEN 'array' THEN CASE WHEN content->1 IS NULL THEN content->0->>'text' END
    END;
    IF said <> '' AND octet_length(said) = char_length(said) AND octet_length(said) <= 200000 THEN
        RETURN array_to_tsvector(marks)
            || to_tsvector('pg_catalog.simple', regexp_replace(lower(said COLLATE "C"), '[-./@_<&+]', ' ', 'g'));
    END IF;
    IF json_typeof(data) = 'array' THEN
        RETURN array_to_tsvector(marks || string_to_array(data->1->>'words', ' '));
    END IF;
    RETURN public.lexemes_v1(coalesce(public.message_text_v1(data), ''), marks);
END
$function$;

-- Return the lexemes of a title. A sealed title contains keyed hashes of its words.
CREATE FUNCTION title_lexemes_v1(project uuid, title text) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE COST 10000 SET search_path = "$user", public AS $function$
DECLARE
    mark text := '=title' || encode(uuid_send(project), 'hex');
BEGIN
    IF starts_with(title, E'\x01et1:') THEN
        RETURN array_to_tsvector(mark || (string_to_array(title, ' '))[2:]);
    END IF;
    RETURN lexemes_v1(title, ARRAY[mark]);
END
$function$;

-- =====================================================================================================================
-- Projects, keys and provider accounts
-- =====================================================================================================================
CREATE TABLE projects (
    project_id uuid NOT NULL CONSTRAINT projects_pkey PRIMARY KEY,
    name text NOT NULL CONSTRAINT projects_name_key UNIQUE,
    trail_key bytea NOT NULL,
    retention_days integer CONSTRAINT projects_retention_days_check CHECK (retention_days BETWEEN 1 AND 36500),
    purged_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- NULL: the service's setting.
    session_cache text CONSTRAINT projects_session_cache_check CHECK (session_cache IN ('off', 'on', 'auto')),
    operates boolean NOT NULL DEFAULT false,
    archived_at timestamptz,
    settings jsonb NOT NULL DEFAULT '{}',
    -- From this moment on, new contents are sealed. Workers have the key slightly earlier.
    encrypted_at timestamptz,
    -- From this moment on, sealed contents cannot be opened.
    key_destroyed_at timestamptz,
    salt bytea,
    minimum_retention_days integer
        CONSTRAINT projects_minimum_retention_days_check CHECK (minimum_retention_days BETWEEN 1 AND 36500),
    -- Former minimums that were longer, each with the time at which it was lowered.
    minimum_retention_former jsonb NOT NULL DEFAULT '[]',
    -- Readers whose reads of contents are recorded.
    record_reads text NOT NULL DEFAULT 'staff'
        CONSTRAINT projects_record_reads_check CHECK (record_reads IN ('off', 'staff', 'all')),
    CONSTRAINT projects_minimum_retention_check CHECK (retention_days >= minimum_retention_days),
    CONSTRAINT projects_key_destroyed_check
        CHECK (key_destroyed_at IS NULL OR (encrypted_at IS NOT NULL AND archived_at IS NOT NULL))
);

CREATE TABLE api_keys (
    project_id uuid NOT NULL CONSTRAINT api_keys_project_id_fkey REFERENCES projects ON DELETE CASCADE,
    id uuid NOT NULL,
    name text NOT NULL,
    key_hash bytea NOT NULL CONSTRAINT api_keys_key_hash_key UNIQUE,
    hint text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz,
    last_used_at timestamptz,
    scopes text[] NOT NULL DEFAULT '{read,write,audit,admin}'
        CONSTRAINT api_keys_scopes_check CHECK (scopes <@ '{read,write,audit,admin}' AND scopes <> '{}'),
    expires_at timestamptz,
    limits jsonb NOT NULL DEFAULT '{}',
    salt bytea,
    -- Issuer and subject of a person who signs in to the console. NULL: an API key.
    subject text,
    CONSTRAINT api_keys_pkey PRIMARY KEY (project_id, id)
);
CREATE UNIQUE INDEX api_keys_subject_idx ON api_keys (project_id, subject) WHERE revoked_at IS NULL AND subject IS NOT NULL;

-- Browsers that are signed in to the console. A row that has expired signs the browser out on every worker.
CREATE TABLE console_sessions (
    project_id uuid NOT NULL,
    id uuid NOT NULL,
    key_id uuid NOT NULL,
    token_hash bytea NOT NULL CONSTRAINT console_sessions_token_hash_check CHECK (octet_length(token_hash) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    CONSTRAINT console_sessions_pkey PRIMARY KEY (project_id, id),
    CONSTRAINT console_sessions_key_fkey FOREIGN KEY (project_id, key_id)
        REFERENCES api_keys (project_id, id) ON DELETE CASCADE,
    CONSTRAINT console_sessions_token_hash_key UNIQUE (token_hash)
);
CREATE INDEX console_sessions_key_idx ON console_sessions (project_id, key_id);
CREATE INDEX console_sessions_expires_idx ON console_sessions (expires_at);

-- Times until which all tokens of an end user are refused. Rows are deleted when no token from before can still be valid.
CREATE TABLE user_cutoffs (
    project_id uuid NOT NULL CONSTRAINT user_cutoffs_project_id_fkey REFERENCES projects ON DELETE CASCADE,
    -- A keyed hash: a purge of the user leaves the cut-off in force.
    user_hash bytea NOT NULL,
    -- Microseconds since 1970, as tokens tell their issue time.
    cut_at bigint NOT NULL,
    -- The user who has claimed the threads of this anonymous user, hashed alike.
    claimed_by bytea,
    CONSTRAINT user_cutoffs_pkey PRIMARY KEY (project_id, user_hash)
);
CREATE INDEX user_cutoffs_cut_idx ON user_cutoffs (project_id, cut_at);

-- Issuers and audiences of JWTs that projects accept, or have accepted. No other project can claim the same pair.
CREATE TABLE claimed_audiences (
    project_id uuid NOT NULL,
    issuer text NOT NULL,
    audience text NOT NULL,
    key_id uuid NOT NULL,
    CONSTRAINT claimed_audiences_pkey PRIMARY KEY (project_id, issuer, audience),
    CONSTRAINT claimed_audiences_key_fkey FOREIGN KEY (project_id, key_id)
        REFERENCES api_keys (project_id, id) ON DELETE CASCADE,
    CONSTRAINT claimed_audiences_issuer_audience_key UNIQUE (issuer, audience)
);

-- Tickets that open a stream once. Using a ticket deletes its row. The credential is sealed with a key that only the ticket
-- gives; of the ticket, of its path and of its owner only hashes are stored.
CREATE TABLE stream_tickets (
    project_id uuid NOT NULL CONSTRAINT stream_tickets_project_id_fkey REFERENCES projects ON DELETE CASCADE,
    token_hash bytea NOT NULL CONSTRAINT stream_tickets_token_hash_check CHECK (octet_length(token_hash) = 32),
    owner_hash bytea NOT NULL,
    path_hash bytea NOT NULL,
    credential bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    CONSTRAINT stream_tickets_pkey PRIMARY KEY (project_id, token_hash),
    CONSTRAINT stream_tickets_token_hash_key UNIQUE (token_hash)
);
CREATE INDEX stream_tickets_owner_idx ON stream_tickets (project_id, owner_hash);
CREATE INDEX stream_tickets_expires_idx ON stream_tickets (expires_at);

-- Presets of projects and of user tokens. Those of tokens are deleted after the tokens have expired.
CREATE TABLE user_presets (
    project_id uuid NOT NULL CONSTRAINT user_presets_project_id_fkey REFERENCES projects ON DELETE CASCADE,
    id uuid NOT NULL,
    preset json NOT NULL,
    expires_at timestamptz,
    CONSTRAINT user_presets_pkey PRIMARY KEY (project_id, id)
);
CREATE INDEX user_presets_expires_idx ON user_presets (expires_at) WHERE expires_at IS NOT NULL;

-- Data keys of projects, sealed by the service's master key. They seal the contents of the project.
CREATE TABLE data_keys (
    project_id uuid NOT NULL CONSTRAINT data_keys_project_id_fkey REFERENCES projects ON DELETE CASCADE,
    number smallint NOT NULL CONSTRAINT data_keys_number_check CHECK (number >= 1),
    master_id bytea NOT NULL,
    wrapped bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT data_keys_pkey PRIMARY KEY (project_id, number)
);

-- What a short master key opens, sealed, so that the key itself fits into an environment variable.
CREATE TABLE master_nodes (
    secret_id bytea CONSTRAINT master_nodes_pkey PRIMARY KEY,
    nodes bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE accounts (
    project_id uuid NOT NULL CONSTRAINT accounts_project_id_fkey REFERENCES projects ON DELETE CASCADE,
    id uuid NOT NULL,
    name text NOT NULL,
    position integer NOT NULL,
    weight integer NOT NULL CONSTRAINT accounts_weight_check CHECK (weight BETWEEN 1 AND 1000),
    base_url text NOT NULL,
    binding text NOT NULL,
    api_key bytea NOT NULL,
    hint text NOT NULL,
    models text[] NOT NULL DEFAULT '{}',
    shared boolean NOT NULL DEFAULT false,
    disabled boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT accounts_name_key UNIQUE (project_id, name),
    CONSTRAINT accounts_pkey PRIMARY KEY (project_id, id)
);
CREATE INDEX accounts_shared_idx ON accounts (position) WHERE shared;
CREATE INDEX accounts_binding_idx ON accounts (binding);

-- The key that authenticates cache entries in Redis. One row.
CREATE TABLE cache_keys (
    id smallint NOT NULL DEFAULT 1 CONSTRAINT cache_keys_id_check CHECK (id = 1),
    key bytea NOT NULL CONSTRAINT cache_keys_key_check CHECK (octet_length(key) = 32),
    CONSTRAINT cache_keys_pkey PRIMARY KEY (id)
);

-- Keys of the digests that name end users in the audit trail.
CREATE TABLE user_keys (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    user_id text NOT NULL,
    key bytea NOT NULL,
    CONSTRAINT user_keys_pkey PRIMARY KEY (project_id, bucket, user_id)
);

-- =====================================================================================================================
-- Threads
-- =====================================================================================================================
CREATE TABLE threads (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    name text,
    title text,
    user_id text,
    metadata jsonb NOT NULL DEFAULT '{}',
    head_turn_id uuid,
    forked_turn_id uuid,
    turn_count integer NOT NULL DEFAULT 0,
    last_seq integer NOT NULL DEFAULT 0,
    -- The number of the last turn that usage_sums has.
    counted_seq integer NOT NULL DEFAULT 0,
    chain_seq bigint NOT NULL DEFAULT 0,
    chain_hash bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    trail_key bytea NOT NULL,
    salt bytea,
    archived_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    arrived_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ttl_seconds integer,
    expires_at timestamptz,
    -- The preset of end users' requests.
    preset json
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX threads_arrived_idx ON threads (project_id, arrived_at, id);
CREATE INDEX threads_of_user_idx ON threads (project_id, user_id text_pattern_ops, arrived_at, id)
    WHERE user_id IS NOT NULL;
CREATE INDEX threads_forked_turn_idx ON threads (project_id, bucket, forked_turn_id) WHERE forked_turn_id IS NOT NULL;
CREATE INDEX threads_metadata_idx ON threads USING gin (metadata jsonb_path_ops) WHERE metadata <> '{}';
CREATE INDEX threads_title_lexemes_idx ON threads USING gin (title_lexemes_v1(project_id, title))
    WITH (gin_pending_list_limit = 128) WHERE title IS NOT NULL;
ALTER INDEX threads_title_lexemes_idx ALTER COLUMN 1 SET STATISTICS 0;
CREATE INDEX threads_expires_idx ON threads (expires_at) WHERE expires_at IS NOT NULL;
ALTER TABLE threads ADD CONSTRAINT threads_pkey PRIMARY KEY (project_id, bucket, id);
ALTER TABLE threads ADD CONSTRAINT threads_project_id_fkey
    FOREIGN KEY (project_id) REFERENCES projects ON DELETE CASCADE;

-- Unique thread names, sharded by a hash of the name so that one shard enforces uniqueness. A row is written and deleted
-- together with its thread.
CREATE TABLE thread_names (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    name text NOT NULL,
    thread_id uuid NOT NULL
);
CREATE INDEX thread_names_prefix_idx ON thread_names (project_id, name text_pattern_ops);
ALTER TABLE thread_names ADD CONSTRAINT thread_names_pkey PRIMARY KEY (project_id, bucket, name);

-- The time of the last turn of each thread. This is the only row of a turn that is indexed by a changing value.
CREATE TABLE thread_activity (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    thread_id uuid NOT NULL,
    active_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX thread_activity_idx ON thread_activity (project_id, active_at, thread_id);
ALTER TABLE thread_activity ADD CONSTRAINT thread_activity_pkey PRIMARY KEY (project_id, bucket, thread_id);
ALTER TABLE thread_activity ADD CONSTRAINT thread_activity_thread_fkey
    FOREIGN KEY (project_id, bucket, thread_id) REFERENCES threads (project_id, bucket, id) ON DELETE CASCADE;

-- Requests that wait for a thread's running turn, in their order.
CREATE TABLE waiters (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    thread_id uuid NOT NULL,
    id uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT waiters_pkey PRIMARY KEY (project_id, bucket, thread_id, id),
    CONSTRAINT waiters_thread_fkey
        FOREIGN KEY (project_id, bucket, thread_id) REFERENCES threads (project_id, bucket, id) ON DELETE CASCADE
);

-- =====================================================================================================================
-- Turns, their items and their calls to the provider
-- =====================================================================================================================
CREATE TABLE turns (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    thread_id uuid NOT NULL,
    seq integer NOT NULL,
    parent_id uuid,
    copied_from_id uuid,
    status text NOT NULL,
    continuation text,
    model text NOT NULL,
    params json NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    ignored text[] NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    arrived_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    completed_at timestamptz,
    worker_id uuid,
    lease_expires_at timestamptz,
    cancel_requested_at timestamptz,
    beside integer NOT NULL DEFAULT 0,
    api_key_id uuid,
    idempotency_key text,
    key_scope uuid,
    client_left_at timestamptz,
    body_hash bytea,
    salt bytea,
    error_status smallint,
    response json,
    usage json,
    -- The cost by the prices of its day.
    cost json,
    error json,
    incomplete_details json,
    pace json,
    binding text,
    response_id text,
    response_created_at timestamptz,
    response_expires_at timestamptz,
    response_unknown_at timestamptz,
    deleted_at timestamptz,
    -- What was sent to the model: how much, of which window, and what was left out.
    context json,
    -- The salt of the digest of what remains after the content was deleted.
    left_salt bytea,
    -- Why the turn is new, chained or rebuilt, and why later turns cannot be chained on it.
    continuation_reason text,
    response_unknown_reason text
) WITH (autovacuum_vacuum_scale_factor = 0.05);

-- The condition is always true. It keeps the planner from using this index to look up a turn by its key, because only a
-- condition on this column implies it.
CREATE INDEX turns_arrived_idx ON turns (project_id, arrived_at) WHERE arrived_at IS NOT NULL;
CREATE INDEX turns_copied_idx ON turns (copied_from_id, project_id) WHERE copied_from_id IS NOT NULL;
-- Failures of a project by their end. A turn that completes, or runs, has no entry.
CREATE INDEX turns_failed_idx ON turns (project_id, completed_at, id)
    WHERE status IN ('failed', 'incomplete') AND copied_from_id IS NULL AND deleted_at IS NULL;
CREATE INDEX turns_child_idx ON turns (project_id, bucket, parent_id) WHERE parent_id IS NOT NULL;
-- A provider's id may be of any length and need not be unique: its hash is indexed. By the day first: entries of the same
-- time lie together. At random places, each would add a page to the WAL after each checkpoint.
CREATE INDEX turns_response_idx ON turns
    (project_id, ((arrived_at AT TIME ZONE 'UTC')::date), hashtext(response_id)) WHERE response_id IS NOT NULL;
CREATE UNIQUE INDEX turns_seq_key ON turns (project_id, bucket, thread_id, seq);
-- At most one running turn that will move the head of its thread, and any number beside it.
CREATE UNIQUE INDEX turns_one_active_per_thread ON turns (project_id, bucket, thread_id, beside)
    WHERE status = 'in_progress';
CREATE UNIQUE INDEX turns_idempotency_key ON turns (project_id, bucket, key_scope, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
ALTER TABLE turns ADD CONSTRAINT turns_pkey PRIMARY KEY (project_id, bucket, id);
ALTER TABLE turns ADD CONSTRAINT turns_thread_fkey
    FOREIGN KEY (project_id, bucket, thread_id) REFERENCES threads (project_id, bucket, id) ON DELETE CASCADE;
ALTER TABLE turns ADD CONSTRAINT turns_parent_fkey
    FOREIGN KEY (project_id, bucket, parent_id) REFERENCES turns (project_id, bucket, id);
ALTER TABLE threads ADD CONSTRAINT threads_forked_turn_fkey
    FOREIGN KEY (project_id, bucket, forked_turn_id) REFERENCES turns (project_id, bucket, id);

CREATE TABLE items (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    turn_id uuid NOT NULL,
    position item_position NOT NULL,
    origin item_origin NOT NULL,
    type text NOT NULL,
    item_id text NOT NULL,
    data json NOT NULL,
    -- The tokens by Qwen's vocabulary; NULL until counted.
    tokens integer,
    -- The length of the text: what a reader is sent, however far the row is compressed.
    size integer NOT NULL GENERATED ALWAYS AS (octet_length(data::text)) STORED
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE UNIQUE INDEX items_item_id_key ON items (item_id, project_id, bucket);
-- A small pending list (kB) bounds the longest wait of a writer that has to sort it in.
CREATE INDEX items_lexemes_idx ON items USING gin (message_lexemes_v1(project_id, turn_id, data))
    WITH (gin_pending_list_limit = 128) WHERE type = 'message';
-- Statistics would read every text of the sample, and no plan depends on them.
ALTER INDEX items_lexemes_idx ALTER COLUMN 1 SET STATISTICS 0;
ALTER TABLE items ADD CONSTRAINT items_pkey PRIMARY KEY (project_id, bucket, turn_id, position);
ALTER TABLE items ADD CONSTRAINT items_turn_fkey
    FOREIGN KEY (project_id, bucket, turn_id) REFERENCES turns (project_id, bucket, id) ON DELETE CASCADE;

CREATE TABLE calls (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    turn_id uuid NOT NULL,
    attempt call_attempt NOT NULL,
    continuation call_continuation NOT NULL,
    url text NOT NULL,
    frames text[],
    refs integer[] NOT NULL DEFAULT '{}',
    dropped_items integer NOT NULL DEFAULT 0,
    status integer,
    response_id text,
    error json,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    continuation_reason text,
    CONSTRAINT calls_pkey PRIMARY KEY (project_id, bucket, turn_id, attempt),
    CONSTRAINT calls_turn_fkey
        FOREIGN KEY (project_id, bucket, turn_id) REFERENCES turns (project_id, bucket, id) ON DELETE CASCADE
) WITH (autovacuum_vacuum_scale_factor = 0.05);

-- Large images, videos, audio and files. A thread has each once, however many of its items hold it, and it is deleted with
-- the last of these: app/media/store.py. A fork may have taken items over from a thread that is gone.
CREATE TABLE media (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    thread_id uuid NOT NULL,
    digest bytea NOT NULL,
    data text NOT NULL,
    CONSTRAINT media_pkey PRIMARY KEY (project_id, bucket, id)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE UNIQUE INDEX media_digest_key ON media (project_id, bucket, thread_id, digest);

-- The places in items that media were taken out of.
CREATE TABLE item_media (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    turn_id uuid NOT NULL,
    position integer NOT NULL,
    place integer NOT NULL,
    media_id uuid NOT NULL,
    CONSTRAINT item_media_pkey PRIMARY KEY (project_id, bucket, turn_id, position, place),
    CONSTRAINT item_media_item_fkey FOREIGN KEY (project_id, bucket, turn_id, position)
        REFERENCES items (project_id, bucket, turn_id, position) ON DELETE CASCADE,
    CONSTRAINT item_media_medium_fkey
        FOREIGN KEY (project_id, bucket, media_id) REFERENCES media (project_id, bucket, id)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX item_media_medium_idx ON item_media (project_id, bucket, media_id);

-- Texts that calls of a thread have sent for items of its history. Each is stored once, however often it is sent.
CREATE TABLE pieces (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    thread_id uuid NOT NULL,
    number integer NOT NULL,
    digest bytea NOT NULL,
    sources text[] NOT NULL,
    data text,
    -- The medium that it stands for, without data of its own.
    media_id uuid,
    CONSTRAINT pieces_pkey PRIMARY KEY (project_id, bucket, thread_id, number),
    CONSTRAINT pieces_thread_fkey
        FOREIGN KEY (project_id, bucket, thread_id) REFERENCES threads (project_id, bucket, id) ON DELETE CASCADE
) WITH (autovacuum_vacuum_scale_factor = 0.05);

-- Summaries of the beginning of a branch: from its first turn to turn_id, for all branches that contain this turn.
CREATE TABLE compactions (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    turn_id uuid NOT NULL,
    previous_id uuid,
    status text NOT NULL CONSTRAINT compactions_status_check CHECK (status IN ('running', 'ready', 'failed')),
    worker_id uuid,
    lease_expires_at timestamptz,
    attempts integer NOT NULL DEFAULT 1 CONSTRAINT compactions_attempts_check CHECK (attempts >= 1),
    model text NOT NULL,
    text text,
    kept_items text[] NOT NULL DEFAULT '{}',
    covered_turns integer NOT NULL CONSTRAINT compactions_covered_turns_check CHECK (covered_turns >= 1),
    covered_tokens bigint NOT NULL,
    tokens integer,
    calls json,
    usage json,
    error json,
    salt bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz,
    CONSTRAINT compactions_pkey PRIMARY KEY (project_id, bucket, id),
    -- One per turn: of two workers, one creates it.
    CONSTRAINT compactions_turn_key UNIQUE (project_id, bucket, turn_id),
    CONSTRAINT compactions_turn_fkey
        FOREIGN KEY (project_id, bucket, turn_id) REFERENCES turns (project_id, bucket, id) ON DELETE CASCADE,
    CONSTRAINT compactions_text_check CHECK ((status = 'ready') = (text IS NOT NULL)),
    CONSTRAINT compactions_lease_check CHECK ((status = 'running') = (lease_expires_at IS NOT NULL)),
    CONSTRAINT compactions_error_check CHECK (status <> 'failed' OR error IS NOT NULL)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX compactions_running_idx ON compactions (lease_expires_at) WHERE status = 'running';

CREATE TABLE feedback (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    turn_id uuid NOT NULL,
    score double precision CONSTRAINT feedback_score_check CHECK (score BETWEEN -1 AND 1),
    label text CONSTRAINT feedback_label_check CHECK (char_length(label) BETWEEN 1 AND 64),
    comment text CONSTRAINT feedback_comment_check CHECK
        (char_length(comment) BETWEEN 1 AND 4000 OR starts_with(comment, E'\x01')),  -- \x01: sealed
    user_id text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    salt bytea,
    CONSTRAINT feedback_pkey PRIMARY KEY (project_id, bucket, id),
    CONSTRAINT feedback_something_check CHECK (num_nonnulls(score, label, comment) > 0),
    CONSTRAINT feedback_turn_fkey FOREIGN KEY (project_id, bucket, turn_id)
        REFERENCES turns (project_id, bucket, id) ON DELETE CASCADE
);
CREATE INDEX feedback_turn_idx ON feedback (project_id, bucket, turn_id);
CREATE INDEX feedback_created_idx ON feedback (project_id, created_at, id);

-- Links through which a conversation is readable without a key.
CREATE TABLE shares (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    thread_id uuid NOT NULL,
    turn_id uuid NOT NULL,
    token_hash bytea NOT NULL CONSTRAINT shares_token_hash_check CHECK (octet_length(token_hash) = 32),
    expires_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    salt bytea,
    title text,  -- of the thread when it was shared
    CONSTRAINT shares_pkey PRIMARY KEY (project_id, bucket, id),
    CONSTRAINT shares_thread_fkey FOREIGN KEY (project_id, bucket, thread_id)
        REFERENCES threads (project_id, bucket, id) ON DELETE CASCADE,
    CONSTRAINT shares_turn_fkey FOREIGN KEY (project_id, bucket, turn_id)
        REFERENCES turns (project_id, bucket, id) ON DELETE CASCADE
);
CREATE INDEX shares_thread_idx ON shares (project_id, bucket, thread_id);
CREATE INDEX shares_turn_idx ON shares (project_id, bucket, turn_id);
CREATE INDEX shares_token_idx ON shares (bucket, token_hash);

-- =====================================================================================================================
-- The audit trail
-- =====================================================================================================================
-- No foreign key leads out of the trail: a record outlives its subject.
CREATE TABLE audit_records (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    chain_id uuid NOT NULL,
    seq bigint NOT NULL,
    at timestamptz NOT NULL,
    action text NOT NULL,
    turn_id uuid,
    key_id uuid,
    user_digest bytea,
    address_digest bytea,
    detail text,
    content bytea,
    previous bytea NOT NULL,
    hash bytea NOT NULL,
    -- The version of the field lists in app/trail/contents.py.
    version smallint NOT NULL DEFAULT 2
);
CREATE INDEX audit_records_at_idx ON audit_records (project_id, at);
CREATE INDEX audit_records_encrypted_idx ON audit_records (project_id, at) WHERE action = 'project.encrypted';
CREATE INDEX audit_records_erased_idx ON audit_records (project_id, at)
    WHERE action IN (
        'thread.deleted', 'thread.purged', 'turn.purged', 'user.purged', 'hold.erased', 'project.key_destroyed'
    );
ALTER TABLE audit_records ADD CONSTRAINT audit_records_pkey PRIMARY KEY (project_id, bucket, chain_id, seq);

CREATE TABLE audit_leaves (
    project_id uuid NOT NULL,
    position bigint NOT NULL,
    chain_id uuid NOT NULL,
    seq bigint NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT audit_leaves_pkey PRIMARY KEY (project_id, position),
    CONSTRAINT audit_leaves_project_id_chain_id_seq_key UNIQUE (project_id, chain_id, seq)
);

CREATE TABLE audit_checkpoints (
    project_id uuid NOT NULL,
    size bigint NOT NULL,
    at timestamptz NOT NULL,
    root bytea NOT NULL,
    public_key bytea NOT NULL,
    signature bytea NOT NULL,
    -- The signed note (C2SP tlog-checkpoint). Null in checkpoints of a release without notes.
    note text,
    CONSTRAINT audit_checkpoints_pkey PRIMARY KEY (project_id, size)
);

-- The name of each project's log in its notes. A restored database begins the next generation.
CREATE TABLE audit_origins (
    project_id uuid NOT NULL,
    generation integer NOT NULL,
    origin text NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT audit_origins_pkey PRIMARY KEY (project_id, generation)
);

-- Signatures of witnesses, each of a checkpoint's note: eight bytes of time, and the signature.
CREATE TABLE audit_cosignatures (
    project_id uuid NOT NULL,
    public_key bytea NOT NULL,
    size bigint NOT NULL,
    origin text NOT NULL,
    name text NOT NULL,
    at timestamptz NOT NULL,
    signature bytea NOT NULL,
    CONSTRAINT audit_cosignatures_pkey PRIMARY KEY (project_id, public_key, size)
);

-- The last answer of each witness, and a lease of the worker that sends to it.
CREATE TABLE audit_witnesses (
    project_id uuid NOT NULL,
    public_key bytea NOT NULL,
    taken_until timestamptz NOT NULL,
    answered_at timestamptz,
    error text,
    CONSTRAINT audit_witnesses_pkey PRIMARY KEY (project_id, public_key)
);

-- The place of each record in the project's stream, given when a reader of the stream pulls. A position never changes.
CREATE TABLE audit_positions (
    project_id uuid NOT NULL,
    position bigint NOT NULL CONSTRAINT audit_positions_position_check CHECK (position > 0),
    bucket smallint NOT NULL,
    chain_id uuid NOT NULL,
    seq bigint NOT NULL,
    CONSTRAINT audit_positions_pkey PRIMARY KEY (project_id, position),
    CONSTRAINT audit_positions_record_key UNIQUE (project_id, bucket, chain_id, seq)
);

-- How far the search for records without a position has come. The row is the lock of a project's stream.
CREATE TABLE audit_streams (
    project_id uuid NOT NULL,
    ahead_at timestamptz NOT NULL DEFAULT 'epoch',
    ahead_chain uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    ahead_seq bigint NOT NULL DEFAULT 0,
    again_at timestamptz NOT NULL,
    again_chain uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    again_seq bigint NOT NULL DEFAULT 0,
    again_next timestamptz,
    swept_bucket smallint NOT NULL DEFAULT -1,
    swept_chain uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    swept_seq bigint NOT NULL DEFAULT 0,
    CONSTRAINT audit_streams_pkey PRIMARY KEY (project_id)
);

-- The keys that hosts may sign checkpoints with.
CREATE TABLE audit_keys (
    public_key bytea NOT NULL
        CONSTRAINT audit_keys_public_key_check CHECK (octet_length(public_key) = 32),
    added_at timestamptz NOT NULL DEFAULT now(),
    retired_at timestamptz,
    CONSTRAINT audit_keys_pkey PRIMARY KEY (public_key)
);

-- The hash of a record: SHA-256 of its canonical JSON (RFC 8785: keys sorted, no spaces, strings escaped as by to_json).
-- app/trail/records.py builds the same text from the columns. The function is declared STABLE because convert_to and
-- to_char are: only then is it inlined into the expression that calls it.
CREATE FUNCTION record_hash_v2(
    project uuid, chain uuid, seq bigint, at timestamptz, action text, turn uuid, key uuid, user_digest bytea,
    address_digest bytea, detail text, content bytea, previous bytea
) RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE AS $function$
    SELECT sha256(convert_to(
        '{"action":' || to_json(action)
        || ',"actor":{"address":' || coalesce('"address_' || encode(address_digest, 'hex') || '"', 'null')
        || ',"key":' || coalesce('"key_' || encode(uuid_send(key), 'hex') || '"', 'null')
        || ',"project":"' || encode(uuid_send(project), 'hex')
        || '","user":' || coalesce('"user_' || encode(user_digest, 'hex') || '"', 'null')
        || '},"at":"' || to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        || '","content":' || coalesce('"' || encode(content, 'hex') || '"', 'null')
        || ',"detail":' || coalesce(to_json(detail)::text, 'null')
        || ',"id":"audit_' || encode(uuid_send(chain), 'hex') || '_' || seq
        || '","object":"audit.record","previous":"' || encode(previous, 'hex')
        || '","seq":' || seq
        || ',"thread":' || CASE WHEN chain = project THEN 'null'
            ELSE '"thread_' || encode(uuid_send(chain), 'hex') || '"' END
        || ',"turn":' || coalesce('"turn_' || encode(uuid_send(turn), 'hex') || '"', 'null')
        || ',"version":2}',
        'UTF8'
    ))
$function$;

-- Return 16 bytes that identify a user or an address to those who have the key, and to nobody else.
CREATE FUNCTION trail_digest_v1(key bytea, kind text, value text) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE AS $function$
    SELECT substring(sha256(key || convert_to(kind || ':v1:' || value, 'UTF8')) FROM 1 FOR 16)
$function$;

-- Append records to a chain in the transaction of the change that they describe. For a thread, its row is locked by then
-- and holds the end of the chain. For the project's own chain, the end is looked up by one writer at a time.
CREATE FUNCTION append_records_v2(
    p_project uuid, p_bucket smallint, p_chain uuid, p_user_digest bytea, p_key uuid, p_address text,
    p_actions text[], p_turns uuid[], p_details text[], p_contents bytea[]
) RETURNS void LANGUAGE plpgsql AS $function$
DECLARE
    chain bigint;
    before bytea;
    after bytea;
    naming_key bytea;
    of_thread boolean := false;
    who bytea;
    whence bytea;
    moment timestamptz;
    arrived timestamptz;
BEGIN
    PERFORM set_config('everthread.function', 'append_records_v2', true);
    IF p_chain <> p_project THEN
        SELECT t.chain_seq, t.chain_hash, t.trail_key, trail_digest_v1(t.trail_key, 'user', t.user_id),
                CASE WHEN t.chain_seq = 0 THEN t.arrived_at END
            INTO chain, before, naming_key, who, arrived
            FROM threads t WHERE t.project_id = p_project AND t.bucket = p_bucket AND t.id = p_chain FOR NO KEY UPDATE;
        of_thread := FOUND;
        who := coalesce(who, p_user_digest);
    ELSE
        PERFORM pg_advisory_xact_lock(uuid_hash_extended(p_chain, 0));
        SELECT p.trail_key, p_user_digest INTO naming_key, who FROM projects p WHERE p.project_id = p_project;
    END IF;
    IF coalesce(chain, 0) = 0 THEN
        -- A thread that comes back under its id goes on with its chain.
        SELECT r.seq, r.hash INTO chain, before FROM audit_records r
            WHERE r.project_id = p_project AND r.bucket = p_bucket AND r.chain_id = p_chain ORDER BY r.seq DESC LIMIT 1;
    END IF;
    chain := coalesce(chain, 0);
    before := coalesce(before, decode(repeat('00', 32), 'hex'));
    whence := trail_digest_v1(naming_key, 'address', p_address);
    FOR i IN 1..cardinality(p_actions) LOOP
        chain := chain + 1;
        -- A thread's first record has the moment that the thread is listed by: it outlives the thread.
        moment := coalesce(arrived, clock_timestamp());
        arrived := NULL;
        after := record_hash_v2(p_project, p_chain, chain, moment, p_actions[i], p_turns[i], p_key, who,
            whence, p_details[i], p_contents[i], before);
        INSERT INTO audit_records (
            project_id, bucket, chain_id, seq, at, action, turn_id, key_id, user_digest, address_digest, detail,
            content, previous, hash
        ) VALUES (
            p_project, p_bucket, p_chain, chain, moment, p_actions[i], p_turns[i], p_key, who,
            whence, p_details[i], p_contents[i], before, after
        );
        before := after;
    END LOOP;
    IF of_thread THEN
        UPDATE threads t SET chain_seq = chain, chain_hash = before
            WHERE t.project_id = p_project AND t.bucket = p_bucket AND t.id = p_chain;
    END IF;
    PERFORM set_config('everthread.function', '', true);
END
$function$;
ALTER FUNCTION append_records_v2 SET enable_sort = off;

-- =====================================================================================================================
-- Other tables
-- =====================================================================================================================
-- Responses to be deleted at the provider.
CREATE TABLE provider_deletions (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    response_id text NOT NULL,
    binding text NOT NULL,
    tries integer NOT NULL DEFAULT 0,
    next_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    CONSTRAINT provider_deletions_pkey PRIMARY KEY (project_id, bucket, response_id)
);
CREATE INDEX provider_deletions_next_idx ON provider_deletions (binding, next_at);

-- Deletions of all data of an end user.
CREATE TABLE user_purges (
    project_id uuid NOT NULL,
    id uuid NOT NULL,
    user_id text NOT NULL,
    key_id uuid,
    address text,
    threads integer NOT NULL,
    threads_done integer NOT NULL DEFAULT 0 CONSTRAINT user_purges_threads_done_check CHECK (threads_done >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    lease_expires_at timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz,
    CONSTRAINT user_purges_pkey PRIMARY KEY (project_id, id)
);
CREATE INDEX user_purges_unfinished_idx ON user_purges (lease_expires_at) WHERE completed_at IS NULL;

-- The records by which a user's data was purged, as leaves of 56 bytes: chain, number and hash of each.
CREATE TABLE purge_records (
    project_id uuid NOT NULL,
    purge_id uuid NOT NULL,
    leaves bytea NOT NULL CONSTRAINT purge_records_leaves_check CHECK (octet_length(leaves) % 56 = 0),
    CONSTRAINT purge_records_pkey PRIMARY KEY (project_id, purge_id)
);

-- Erasure certificates: a signed note for each record that ends a purge.
CREATE TABLE purge_certificates (
    project_id uuid NOT NULL,
    purge_id uuid NOT NULL,
    seq bigint NOT NULL,
    note text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT purge_certificates_pkey PRIMARY KEY (project_id, purge_id, seq)
);

-- Webhooks, and their deliveries. The audit trail is the outbox: events are read from it up to a record, and the deliveries
-- are written in the transaction that stores the place of this record.
CREATE TABLE webhooks (
    project_id uuid NOT NULL,
    id uuid NOT NULL,
    url text NOT NULL,
    events text[] NOT NULL CONSTRAINT webhooks_events_check CHECK (cardinality(events) > 0),
    description text,
    secret text NOT NULL,
    former_secret text,
    former_until timestamptz,
    paused boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    read_at timestamptz NOT NULL DEFAULT now(),
    read_chain uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    read_seq bigint NOT NULL DEFAULT 0,
    CONSTRAINT webhooks_pkey PRIMARY KEY (project_id, id),
    CONSTRAINT webhooks_former_check CHECK ((former_secret IS NULL) = (former_until IS NULL))
);

CREATE TABLE webhook_deliveries (
    project_id uuid NOT NULL,
    webhook_id uuid NOT NULL,
    chain_id uuid NOT NULL,
    seq bigint NOT NULL,
    type text NOT NULL,
    at timestamptz NOT NULL,
    data json NOT NULL,
    status text NOT NULL DEFAULT 'pending' CONSTRAINT webhook_deliveries_status_check
        CHECK (status IN ('pending', 'delivered', 'failed')),
    attempts integer NOT NULL DEFAULT 0 CONSTRAINT webhook_deliveries_attempts_check CHECK (attempts >= 0),
    next_at timestamptz NOT NULL DEFAULT now(),
    last_status integer,
    last_error text,
    delivered_at timestamptz,
    CONSTRAINT webhook_deliveries_pkey PRIMARY KEY (project_id, webhook_id, chain_id, seq),
    CONSTRAINT webhook_deliveries_delivered_check CHECK ((status = 'delivered') = (delivered_at IS NOT NULL)),
    CONSTRAINT webhook_deliveries_webhook_fkey FOREIGN KEY (project_id, webhook_id)
        REFERENCES webhooks (project_id, id) ON DELETE CASCADE
);
CREATE INDEX webhook_deliveries_next_idx ON webhook_deliveries (project_id, webhook_id, next_at) WHERE status = 'pending';
CREATE INDEX webhook_deliveries_at_idx ON webhook_deliveries (project_id, webhook_id, at);

-- Properties of models that the provider's answers have shown.
CREATE TABLE learnt_models (
    binding text NOT NULL,
    model text NOT NULL,
    window_tokens bigint CONSTRAINT learnt_models_window_tokens_check CHECK (window_tokens > 0),
    tokens_per_counted float8 CONSTRAINT learnt_models_tokens_per_counted_check CHECK (tokens_per_counted > 0),
    learnt_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT learnt_models_pkey PRIMARY KEY (binding, model)
);

-- Hourly sums of outcomes and durations of turns, to which each worker adds. Statistics only: counts that a worker has not
-- written when it ends are lost.
CREATE TABLE turn_hours (
    project_id uuid NOT NULL CONSTRAINT turn_hours_project_id_fkey REFERENCES projects ON DELETE CASCADE,
    hour timestamptz NOT NULL,
    model text NOT NULL,
    outcome text NOT NULL,
    turns bigint NOT NULL CONSTRAINT turn_hours_turns_check CHECK (turns >= 0),
    durations bigint[] NOT NULL,
    first_words bigint[] NOT NULL,
    CONSTRAINT turn_hours_pkey PRIMARY KEY (project_id, hour, model, outcome)
);

-- Spending outside stored turns: Chat Completions, responses that are not stored, compactions, titles, and turns that broke
-- off before the provider had counted them. One row each, with counts and without contents.
CREATE TABLE charges (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    at timestamptz NOT NULL,
    kind text NOT NULL CONSTRAINT charges_kind_check CHECK (kind IN ('chat', 'response', 'compaction', 'title', 'cut')),
    model text NOT NULL,
    binding text,
    api_key_id uuid,
    user_id text,
    thread_id uuid,
    input_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    total_tokens bigint NOT NULL,
    tool_calls bigint NOT NULL,
    estimated boolean NOT NULL DEFAULT false,
    -- By the prices of its day. Without a currency, no price was known.
    currency text,
    cost numeric,
    saved numeric,
    CONSTRAINT charges_pkey PRIMARY KEY (project_id, bucket, id)
);
CREATE INDEX charges_at_idx ON charges (project_id, at);
CREATE INDEX charges_user_idx ON charges (project_id, user_id) WHERE user_id IS NOT NULL;

-- Usage of the turns of each thread up to threads.counted_seq, in sums of a quarter of an hour, which is the unit of the
-- world's time zones. Sums go with their thread. Later turns are summed from their rows: see app/usage/usage.sql.
CREATE TABLE usage_sums (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    thread_id uuid NOT NULL,
    at timestamptz NOT NULL,
    model text NOT NULL,
    binding text NOT NULL,
    api_key_id uuid NOT NULL,
    currency text NOT NULL,
    turns bigint NOT NULL,
    failed_turns bigint NOT NULL,
    input_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    total_tokens bigint NOT NULL,
    tool_calls bigint NOT NULL,
    rebuilt_turns bigint NOT NULL,
    rebuilt_input_tokens bigint NOT NULL,
    unpriced_turns bigint NOT NULL,
    cost numeric NOT NULL,
    rebuilt_input_cost numeric NOT NULL,
    saved numeric NOT NULL
);
CREATE INDEX usage_sums_at_idx ON usage_sums (project_id, at);
ALTER TABLE usage_sums ADD CONSTRAINT usage_sums_pkey
    PRIMARY KEY (project_id, bucket, thread_id, at, model, binding, api_key_id, currency);
ALTER TABLE usage_sums ADD CONSTRAINT usage_sums_thread_fkey
    FOREIGN KEY (project_id, bucket, thread_id) REFERENCES threads (project_id, bucket, id) ON DELETE CASCADE;

-- The migrations whose releases can run on this schema: see app/schema.py.
CREATE TABLE served_revisions (revision text NOT NULL CONSTRAINT served_revisions_pkey PRIMARY KEY);

-- =====================================================================================================================
-- Guards: rows that are refused, whoever writes them
-- =====================================================================================================================
-- True if a turn is in the history of a thread: one of its own turns, or an ancestor of the turn that it was forked from.
CREATE FUNCTION in_history(project uuid, b smallint, thread uuid, turn uuid) RETURNS boolean
LANGUAGE plpgsql STABLE AS $function$
DECLARE
    forked uuid;
BEGIN
    PERFORM FROM turns t WHERE t.project_id = project AND t.bucket = b AND t.id = turn AND t.thread_id = thread;
    IF FOUND THEN RETURN true; END IF;
    SELECT th.forked_turn_id INTO forked FROM threads th
        WHERE th.project_id = project AND th.bucket = b AND th.id = thread;
    PERFORM FROM (
        WITH RECURSIVE shared AS (
            SELECT t.id, t.parent_id FROM turns t WHERE t.project_id = project AND t.bucket = b AND t.id = forked
            UNION ALL
            SELECT t.id, t.parent_id FROM shared CROSS JOIN LATERAL (
                SELECT t.id, t.parent_id FROM turns t
                WHERE t.project_id = project AND t.bucket = b AND t.id = shared.parent_id OFFSET 0
            ) t
        )
        SELECT shared.id FROM shared
    ) AS history WHERE history.id = turn;
    RETURN FOUND;
END
$function$;

CREATE FUNCTION threads_guard() RETURNS trigger LANGUAGE plpgsql AS $function$
DECLARE
    wrong text := CASE
        WHEN NEW.bucket <> bucket_of(NEW.id) THEN 'threads_bucket_check'
        WHEN char_length(NEW.name) NOT BETWEEN 1 AND 256 OR strpos(NEW.name, '/') > 0 THEN 'threads_name_check'
        WHEN char_length(NEW.title) > 1000 AND NOT starts_with(NEW.title, E'\x01') THEN 'threads_title_check'
        WHEN char_length(NEW.user_id) NOT BETWEEN 1 AND 256 THEN 'threads_user_id_check'
        WHEN jsonb_typeof(NEW.metadata) <> 'object' THEN 'threads_metadata_check'
    END;
BEGIN
    IF wrong IS NOT NULL THEN PERFORM refuse_row(wrong); END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER threads_guard BEFORE INSERT OR UPDATE OF id, bucket, name, title, user_id, metadata
    ON threads FOR EACH ROW EXECUTE FUNCTION threads_guard();

-- The head is checked by a trigger of its own: it moves with each turn, and the rest of the row seldom changes.
CREATE FUNCTION threads_head_guard() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF NOT by_function() AND NEW.head_turn_id IS NOT NULL AND NEW.head_turn_id IS DISTINCT FROM OLD.head_turn_id
        AND NOT in_history(NEW.project_id, NEW.bucket, NEW.id, NEW.head_turn_id)
    THEN
        PERFORM refuse_row('threads_head_turn_fkey');
    END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER threads_head_guard BEFORE UPDATE OF head_turn_id
    ON threads FOR EACH ROW EXECUTE FUNCTION threads_head_guard();

CREATE FUNCTION threads_ttl_guard() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF (NEW.ttl_seconds IS NULL) <> (NEW.expires_at IS NULL) THEN PERFORM refuse_row('threads_ttl_check'); END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER threads_ttl_guard BEFORE INSERT OR UPDATE OF ttl_seconds, expires_at ON threads
    FOR EACH ROW EXECUTE FUNCTION threads_ttl_guard();

CREATE FUNCTION turns_guard() RETURNS trigger LANGUAGE plpgsql AS $function$
DECLARE
    runs boolean := NEW.status = 'in_progress';
    wrong text := CASE
        WHEN NEW.status NOT IN ('in_progress', 'completed', 'incomplete', 'failed', 'cancelled')
            THEN 'turns_status_check'
        WHEN runs <> (NEW.completed_at IS NULL) THEN 'turns_completed_at_check'
        WHEN runs <> (NEW.lease_expires_at IS NOT NULL) THEN 'turns_lease_check'
        WHEN (NEW.status = 'failed') <> (NEW.error IS NOT NULL) THEN 'turns_error_check'
        WHEN NEW.status = 'incomplete' AND NEW.incomplete_details IS NULL THEN 'turns_incomplete_details_check'
        WHEN NEW.continuation NOT IN ('new', 'chained', 'rebuilt') THEN 'turns_continuation_check'
        -- Only the pair is checked: a further reason to rebuild needs no migration.
        WHEN NEW.continuation_reason IS NOT NULL AND NEW.continuation IS DISTINCT FROM CASE NEW.continuation_reason
            WHEN 'first_turn' THEN 'new' WHEN 'live_response_id' THEN 'chained' ELSE 'rebuilt' END
            THEN 'turns_continuation_reason_check'
        WHEN NEW.status = 'completed' AND NEW.continuation IS NOT NULL AND NEW.response_id IS NULL
            THEN 'turns_response_id_check'
        WHEN NEW.response_expires_at IS NOT NULL AND NEW.response_id IS NULL THEN 'turns_response_expires_at_check'
        WHEN (NEW.idempotency_key IS NULL) <> (NEW.key_scope IS NULL) THEN 'turns_key_scope_check'
        WHEN NEW.beside NOT IN (0, NEW.seq) OR NEW.seq < 1 THEN 'turns_seq_check'
        WHEN NEW.parent_id = NEW.id THEN 'turns_parent_check'
        WHEN NEW.bucket <> bucket_of(NEW.id) THEN 'turns_bucket_check'
    END;
BEGIN
    IF wrong IS NULL AND NEW.parent_id IS NOT NULL AND NOT by_function()
        AND (TG_OP = 'INSERT' OR NEW.parent_id IS DISTINCT FROM OLD.parent_id)
        AND NOT in_history(NEW.project_id, NEW.bucket, NEW.thread_id, NEW.parent_id)
    THEN
        wrong := 'turns_parent_fkey';
    END IF;
    IF wrong IS NOT NULL THEN PERFORM refuse_row(wrong); END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER turns_guard BEFORE INSERT OR UPDATE ON turns FOR EACH ROW EXECUTE FUNCTION turns_guard();

-- A turn is deleted only together with its thread: other turns may continue it, and it may be a head.
CREATE FUNCTION turns_keep() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF pg_trigger_depth() = 1 THEN PERFORM refuse_row('turns_keep_check'); END IF;
    RETURN OLD;
END
$function$;
CREATE TRIGGER turns_keep BEFORE DELETE ON turns FOR EACH ROW EXECUTE FUNCTION turns_keep();

-- Sealed contents do not become plain again. encrypted_at can be moved to an earlier time, which restores it after it was
-- moved by hand.
CREATE FUNCTION projects_guard() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF OLD.encrypted_at IS NOT NULL AND NEW.encrypted_at IS DISTINCT FROM OLD.encrypted_at
        AND NOT coalesce(NEW.encrypted_at < OLD.encrypted_at, false) THEN
        PERFORM refuse_row('projects_encrypted_check');
    END IF;
    IF OLD.key_destroyed_at IS NOT NULL AND NEW.key_destroyed_at IS DISTINCT FROM OLD.key_destroyed_at THEN
        PERFORM refuse_row('projects_key_destroyed_check');
    END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER projects_guard BEFORE UPDATE OF encrypted_at, key_destroyed_at ON projects
    FOR EACH ROW EXECUTE FUNCTION projects_guard();

-- Records are written only by the functions that chain them.
CREATE FUNCTION audit_guard() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    IF NOT by_function() THEN
        RAISE EXCEPTION 'Records are appended by append_records_v2, which chains them'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END
$function$;
CREATE TRIGGER audit_guard BEFORE INSERT ON audit_records FOR EACH STATEMENT EXECUTE FUNCTION audit_guard();

CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    RAISE EXCEPTION 'The audit trail is append-only: % of % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END
$function$;
CREATE TRIGGER audit_records_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_records
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_leaves_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_leaves
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_checkpoints_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_origins_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_origins
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_cosignatures_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_cosignatures
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER audit_positions_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_positions
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER purge_records_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON purge_records
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();
CREATE TRIGGER purge_certificates_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON purge_certificates
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse();

-- =====================================================================================================================
-- Legal holds
-- =====================================================================================================================
-- Legal holds. A deletion or change of what an active hold covers runs as always, and triggers first copy what would be lost
-- into held_rows. Ordinary reads never look there.
CREATE TABLE holds (
    project_id uuid NOT NULL CONSTRAINT holds_project_id_fkey REFERENCES projects,
    id uuid NOT NULL,
    scope text NOT NULL CONSTRAINT holds_scope_check CHECK (scope IN ('thread', 'user', 'project')),
    thread_id uuid,
    user_id text,
    reason text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    key_id uuid,
    released_at timestamptz,
    released_by uuid,
    release_reason text,
    -- When the cleaner had erased what no other hold covers, and how many rows that were. The user is forgotten with it.
    erased_at timestamptz,
    erased_rows bigint NOT NULL DEFAULT 0,
    CONSTRAINT holds_pkey PRIMARY KEY (project_id, id),
    CONSTRAINT holds_target_check
        CHECK ((scope = 'thread') = (thread_id IS NOT NULL)
            AND ((scope = 'user') = (user_id IS NOT NULL) OR erased_at IS NOT NULL)),
    CONSTRAINT holds_released_check CHECK ((released_at IS NULL) = (release_reason IS NULL)),
    CONSTRAINT holds_erased_check CHECK (erased_rows >= 0 AND (erased_at IS NULL OR released_at IS NOT NULL))
);
CREATE INDEX holds_active_idx ON holds (project_id) WHERE released_at IS NULL;
CREATE INDEX holds_unerased_idx ON holds (released_at) WHERE released_at IS NOT NULL AND erased_at IS NULL;

-- Rows of other tables as they were before they were deleted or changed. Sealed columns stay sealed: json_populate_record
-- gives the row back, which opens as before. `json` keeps the text of documents, and accepts everything that they do.
CREATE TABLE held_rows (
    project_id uuid NOT NULL,
    bucket smallint NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    -- The thread whose history had the row, and its user then. A fork's history includes the turns that it shares. Without a
    -- thread: a row of user_keys.
    thread_id uuid,
    user_id text,
    source text NOT NULL,
    turn_id uuid,
    -- The position, attempt or number of the row in its turn or thread.
    place integer NOT NULL DEFAULT 0,
    -- The primary key of the row in its bucket.
    row_key text NOT NULL,
    kept_at timestamptz NOT NULL DEFAULT now(),
    -- The end of a minimum retention, if one has kept the row.
    keep_until timestamptz,
    data json NOT NULL,
    CONSTRAINT held_rows_pkey PRIMARY KEY (project_id, bucket, id)
);
-- Compressing large contents would let a deletion under a hold take noticeably longer than any other.
ALTER TABLE held_rows ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE INDEX held_rows_thread_idx ON held_rows (project_id, bucket, thread_id, kept_at);
CREATE INDEX held_rows_key_idx ON held_rows (project_id, bucket, thread_id, source, row_key);
CREATE INDEX held_rows_user_idx ON held_rows (project_id, user_id) WHERE user_id IS NOT NULL;
CREATE INDEX held_rows_until_idx ON held_rows (keep_until) WHERE keep_until IS NOT NULL;

-- True if an active hold covers a thread, or a user. Callers have locked the holds of the project before the statement that
-- calls this.
CREATE FUNCTION is_held_v1(project uuid, thread uuid, of_user text) RETURNS boolean LANGUAGE sql STABLE RETURN EXISTS (
    SELECT FROM holds h WHERE h.project_id = project AND h.released_at IS NULL
        AND (h.scope = 'project' OR h.thread_id = thread OR h.user_id = of_user)
);

-- Return the minimum retentions of a project, each with the end of the time in which it was set: contents keep the longest
-- one that was set at any time since they were written.
CREATE FUNCTION minimum_retentions_v1(project uuid) RETURNS TABLE (days integer, until timestamptz)
LANGUAGE sql STABLE AS $function$
    SELECT p.minimum_retention_days, 'infinity'::timestamptz FROM projects p
        WHERE p.project_id = project AND p.minimum_retention_days IS NOT NULL
    UNION ALL
    SELECT (f.value->>'days')::integer, (f.value->>'until')::timestamptz
        FROM projects p CROSS JOIN jsonb_array_elements(p.minimum_retention_former) f WHERE p.project_id = project
$function$;

-- Decide if a row of a thread is kept when it is deleted or changed, and until when at least.
--
-- written: the time at which the content arrived.
CREATE FUNCTION kept_v1(
    project uuid, thread uuid, of_user text, written timestamptz, OUT keeps boolean, OUT until timestamptz
) LANGUAGE plpgsql STABLE AS $function$
BEGIN
    SELECT max(written + make_interval(days => m.days)) INTO until FROM minimum_retentions_v1(project) m
        WHERE m.until > written;
    IF until <= now() THEN until := NULL; END IF;
    keeps := until IS NOT NULL OR is_held_v1(project, thread, of_user);
END
$function$;

-- Lock the holds of a project for a deletion or change: until its transaction ends, no hold is placed. Placing one takes the
-- exclusive lock. A statement after this one sees each hold that was placed before, except in a transaction with one
-- snapshot for all statements.
CREATE FUNCTION lock_holds_v1(project uuid) RETURNS void LANGUAGE plpgsql AS $function$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(uuid_hash_extended(project, 2));
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        PERFORM refuse_row('holds_isolation_check');
    END IF;
END
$function$;

-- Return the threads for which a row is kept: its own, and the held forks that share its turn, or any turn of its thread.
CREATE FUNCTION keepers_v1(project uuid, b smallint, thread uuid, turn uuid, written timestamptz)
RETURNS TABLE (keeper uuid, of_user text, until timestamptz) LANGUAGE plpgsql ROWS 1 AS $function$
BEGIN
    PERFORM lock_holds_v1(project);
    RETURN QUERY SELECT th.id, th.user_id, k.until
        FROM threads th CROSS JOIN LATERAL kept_v1(project, th.id, th.user_id, coalesce(written, th.updated_at)) k
        WHERE th.project_id = project AND th.bucket = b AND th.id = thread AND k.keeps;
    PERFORM FROM holds h WHERE h.project_id = project AND h.released_at IS NULL AND h.scope <> 'project';
    IF FOUND THEN
        RETURN QUERY SELECT th.id, th.user_id, NULL::timestamptz FROM threads th
            WHERE th.project_id = project AND th.bucket = b AND th.forked_turn_id IS NOT NULL AND th.id <> thread
                AND EXISTS (
                    SELECT FROM holds h WHERE h.project_id = project AND h.released_at IS NULL
                        AND (h.thread_id = th.id OR h.user_id = th.user_id)
                ) AND CASE WHEN NOT is_forked_from_v1(project, b, th.forked_turn_id, thread) THEN false
                    WHEN turn IS NULL THEN true
                    ELSE EXISTS (SELECT FROM shared_turns_v1(project, b, th.forked_turn_id) s WHERE s.id = turn) END;
    END IF;
END
$function$;

-- True if a fork at a turn shares turns of a thread: the turn's own, or one that this is a fork of. There are few of them,
-- however many turns are shared.
CREATE FUNCTION is_forked_from_v1(project uuid, b smallint, turn uuid, thread uuid) RETURNS boolean
LANGUAGE plpgsql STABLE AS $function$
BEGIN
    RETURN EXISTS (
        WITH RECURSIVE sources AS (
            SELECT t.thread_id FROM turns t WHERE t.project_id = project AND t.bucket = b AND t.id = turn
            UNION
            SELECT t.thread_id FROM sources s
            JOIN threads th ON th.project_id = project AND th.bucket = b AND th.id = s.thread_id
            JOIN turns t ON t.project_id = project AND t.bucket = b AND t.id = th.forked_turn_id
        )
        SELECT FROM sources s WHERE s.thread_id = thread
    );
END
$function$;

-- Return a turn and those before it, of whichever thread.
CREATE FUNCTION shared_turns_v1(project uuid, b smallint, turn uuid) RETURNS TABLE (id uuid, thread_id uuid)
LANGUAGE plpgsql STABLE AS $function$
BEGIN
    RETURN QUERY WITH RECURSIVE shared AS (
        SELECT t.id, t.thread_id, t.parent_id FROM turns t WHERE t.project_id = project AND t.bucket = b AND t.id = turn
        UNION ALL
        SELECT t.id, t.thread_id, t.parent_id FROM shared CROSS JOIN LATERAL (
            SELECT t.id, t.thread_id, t.parent_id FROM turns t
            WHERE t.project_id = project AND t.bucket = b AND t.id = shared.parent_id OFFSET 0
        ) t
    )
    SELECT shared.id, shared.thread_id FROM shared;
END
$function$;

-- Copy a row into held_rows for a thread. A medium is copied once, however many items and pieces refer to it.
CREATE FUNCTION keep_row_v1(
    project uuid, b smallint, thread uuid, of_user text, until timestamptz, from_table text, turn uuid, at_place integer,
    key text, whole json
) RETURNS void LANGUAGE plpgsql AS $function$
BEGIN
    INSERT INTO held_rows (project_id, bucket, thread_id, user_id, source, turn_id, place, row_key, keep_until, data)
        SELECT project, b, thread, of_user, from_table, turn, at_place, key, until, whole
        WHERE from_table <> 'media' OR NOT EXISTS (
            SELECT FROM held_rows h WHERE h.project_id = project AND h.bucket = b AND h.thread_id = thread
                AND h.source = 'media' AND h.row_key = key AND h.user_id IS NOT DISTINCT FROM of_user
                AND coalesce(h.keep_until, '-infinity') >= coalesce(until, '-infinity') AND h.data::text = whole::text
        );
END
$function$;

CREATE FUNCTION keep_medium_v1(project uuid, b smallint, thread uuid, of_user text, until timestamptz, medium uuid)
RETURNS void LANGUAGE plpgsql AS $function$
BEGIN
    PERFORM keep_row_v1(project, b, thread, of_user, until, 'media', NULL, 0, m.id::text, row_to_json(m))
        FROM media m WHERE m.project_id = project AND m.bucket = b AND m.id = medium;
END
$function$;

-- Copy a piece, and the medium that it stands for.
CREATE FUNCTION keep_piece_v1(thread uuid, of_user text, until timestamptz, piece pieces) RETURNS void
LANGUAGE plpgsql AS $function$
BEGIN
    PERFORM keep_row_v1(piece.project_id, piece.bucket, thread, of_user, until, 'pieces', NULL, piece.number,
        piece.thread_id || '/' || piece.number, row_to_json(piece));
    IF piece.media_id IS NOT NULL THEN
        PERFORM keep_medium_v1(piece.project_id, piece.bucket, thread, of_user, until, piece.media_id);
    END IF;
END
$function$;

-- Copy turns with all their rows into held_rows, for a thread whose history has them. Each turn has its end of a minimum
-- retention.
CREATE FUNCTION keep_turns_v1(
    project uuid, b smallint, thread uuid, of_user text, turn_ids uuid[], untils timestamptz[]
) RETURNS void LANGUAGE plpgsql AS $function$
BEGIN
    INSERT INTO held_rows (project_id, bucket, thread_id, user_id, source, turn_id, place, row_key, keep_until, data)
        WITH kept AS MATERIALIZED (SELECT * FROM unnest(turn_ids, untils) AS k (id, until))
        SELECT project, b, thread, of_user, r.source, kept.id, r.place, r.row_key, kept.until, r.data
        FROM kept CROSS JOIN LATERAL (
            SELECT 'turns' AS source, t.seq AS place, t.id::text AS row_key, row_to_json(t) AS data FROM turns t
                WHERE t.project_id = project AND t.bucket = b AND t.id = kept.id
            UNION ALL
            SELECT 'items', i.position, i.turn_id || '/' || i.position, row_to_json(i) FROM items i
                WHERE i.project_id = project AND i.bucket = b AND i.turn_id = kept.id
            UNION ALL
            SELECT 'item_media', i.position, concat_ws('/', i.turn_id, i.position, i.place), row_to_json(i)
                FROM item_media i WHERE i.project_id = project AND i.bucket = b AND i.turn_id = kept.id
            UNION ALL
            SELECT 'calls', c.attempt, c.turn_id || '/' || c.attempt, row_to_json(c) FROM calls c
                WHERE c.project_id = project AND c.bucket = b AND c.turn_id = kept.id
            UNION ALL
            SELECT 'compactions', 0, c.id::text, row_to_json(c) FROM compactions c
                WHERE c.project_id = project AND c.bucket = b AND c.turn_id = kept.id
            UNION ALL
            SELECT 'feedback', 0, f.id::text, row_to_json(f) FROM feedback f
                WHERE f.project_id = project AND f.bucket = b AND f.turn_id = kept.id
        ) AS r;
    PERFORM keep_medium_v1(project, b, thread, of_user, m.until, m.media_id) FROM (
        SELECT i.media_id, max(k.until) AS until FROM unnest(turn_ids, untils) AS k (id, until) JOIN item_media i
            ON i.project_id = project AND i.bucket = b AND i.turn_id = k.id
        GROUP BY i.media_id
    ) AS m;
END
$function$;

-- Copy the whole history of a thread, with the turns that it shares.
CREATE FUNCTION keep_thread_v1(th threads) RETURNS void LANGUAGE plpgsql AS $function$
DECLARE
    turn_ids uuid[];
    untils timestamptz[];
    k record;
BEGIN
    SELECT array_agg(t.id), array_agg(kept.until) INTO turn_ids, untils FROM (
        SELECT t.id, t.arrived_at FROM turns t
            WHERE t.project_id = th.project_id AND t.bucket = th.bucket AND t.thread_id = th.id
        UNION
        SELECT t.id, t.arrived_at FROM shared_turns_v1(th.project_id, th.bucket, th.forked_turn_id) s
            JOIN turns t ON t.project_id = th.project_id AND t.bucket = th.bucket AND t.id = s.id
    ) AS t CROSS JOIN LATERAL kept_v1(th.project_id, th.id, th.user_id, t.arrived_at) kept WHERE kept.keeps;
    PERFORM keep_turns_v1(th.project_id, th.bucket, th.id, th.user_id, turn_ids, untils);
    SELECT * INTO k FROM kept_v1(th.project_id, th.id, th.user_id, th.updated_at);
    IF NOT k.keeps THEN RETURN; END IF;
    PERFORM keep_row_v1(th.project_id, th.bucket, th.id, th.user_id, k.until, 'threads', NULL, 0, th.id::text,
        row_to_json(th));
    -- Its own pieces, and those that calls of the shared turns refer to.
    PERFORM keep_piece_v1(th.id, th.user_id, k.until, p) FROM pieces p
        WHERE p.project_id = th.project_id AND p.bucket = th.bucket AND p.thread_id = th.id;
    PERFORM keep_piece_v1(th.id, th.user_id, k.until, p) FROM (
        SELECT t.thread_id, range_agg(int4range(c.refs[place], c.refs[place + 1], '[]')) AS numbers
        FROM unnest(turn_ids) AS kept (id)
        JOIN turns t ON t.project_id = th.project_id AND t.bucket = th.bucket AND t.id = kept.id AND t.thread_id <> th.id
        JOIN calls c ON c.project_id = th.project_id AND c.bucket = th.bucket AND c.turn_id = kept.id
        CROSS JOIN generate_series(1, cardinality(c.refs), 2) AS place
        WHERE c.refs[place] BETWEEN 1 AND c.refs[place + 1] GROUP BY t.thread_id
    ) AS sent JOIN pieces p ON p.project_id = th.project_id AND p.bucket = th.bucket AND p.thread_id = sent.thread_id
        AND p.number <@ sent.numbers;
    PERFORM keep_row_v1(th.project_id, th.bucket, th.id, th.user_id, k.until, 'shares', s.turn_id, 0, s.id::text,
            row_to_json(s))
        FROM shares s WHERE s.project_id = th.project_id AND s.bucket = th.bucket AND s.thread_id = th.id;
END
$function$;

-- True if a change does nothing but seal what lay open, in a project that encrypts its contents: see
-- app/sealing/encrypting.py. The rows are compared as JSON, because a json column has no other comparison.
CREATE FUNCTION only_seals_v1(project uuid, former json, changed json) RETURNS boolean LANGUAGE plpgsql STABLE AS $function$
BEGIN
    PERFORM FROM projects p WHERE p.project_id = project AND p.encrypted_at IS NOT NULL;
    IF NOT FOUND THEN RETURN false; END IF;
    RETURN NOT EXISTS (
        SELECT FROM json_each(former) AS f JOIN json_each(changed) AS c USING (key)
        -- The size is computed later; digests are keyed when what is beside them is sealed.
        WHERE f.value::text <> c.value::text AND key NOT IN ('size', 'digest', 'body_hash') AND NOT (
            CASE WHEN key = 'salt' THEN length(c.value::text) > length(f.value::text)
            WHEN key = 'frames' THEN NOT starts_with(f.value::text, '["\u0001et1:')
                AND starts_with(c.value::text, '["\u0001et1:')
            ELSE NOT is_sealed_v1(f.value::text) AND is_sealed_v1(c.value::text) END
        )
    ) AND EXISTS (
        SELECT FROM json_each(former) AS f JOIN json_each(changed) AS c USING (key)
        WHERE f.value::text <> c.value::text AND key NOT IN ('size', 'digest', 'body_hash')
    );
END
$function$;

-- True for the sealed form of a text, of a document, and of metadata, as JSON: see
-- app/sealing/columns.py.
CREATE FUNCTION is_sealed_v1(stored text) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN
    starts_with(stored, '"\u0001et1:') OR starts_with(stored, '["') OR starts_with(stored, '{"": ["');

-- The trigger functions look in the schema first: a temporary table of the session cannot stand in for one of theirs.
CREATE FUNCTION keep_thread() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
DECLARE
    former threads := OLD;
    k record;
BEGIN
    IF TG_OP = 'DELETE' THEN
        -- open_turn_v3 takes back a thread that has no record yet: nobody has heard of it.
        IF OLD.chain_seq = 0 AND OLD.title IS NULL AND OLD.metadata = '{}' AND NOT EXISTS (
            SELECT FROM turns t WHERE t.project_id = OLD.project_id AND t.bucket = OLD.bucket AND t.thread_id = OLD.id
        ) THEN
            RETURN OLD;
        END IF;
        PERFORM lock_holds_v1(OLD.project_id);
        -- A long thread has many turns to lock and to look at one by one.
        PERFORM FROM minimum_retentions_v1(OLD.project_id);
        IF FOUND OR is_held_v1(OLD.project_id, OLD.id, OLD.user_id) THEN
            -- No feedback is added behind this copy: its foreign key locks the turn.
            PERFORM FROM turns t WHERE t.project_id = OLD.project_id AND t.bucket = OLD.bucket AND t.thread_id = OLD.id
                ORDER BY t.id FOR UPDATE;
            PERFORM keep_thread_v1(former);
        END IF;
        RETURN OLD;
    END IF;
    PERFORM lock_holds_v1(OLD.project_id);
    PERFORM FROM holds h WHERE h.project_id = OLD.project_id AND h.released_at IS NULL AND h.user_id = OLD.user_id
        AND NEW.user_id IS DISTINCT FROM OLD.user_id;
    IF FOUND THEN
        -- The hold does not cover the thread any more: what it has had is kept now.
        PERFORM keep_thread_v1(former);
        RETURN NEW;
    END IF;
    SELECT * INTO k FROM kept_v1(OLD.project_id, OLD.id, OLD.user_id, OLD.updated_at);
    IF k.keeps AND NOT only_seals_v1(OLD.project_id, row_to_json(OLD), row_to_json(NEW)) THEN
        PERFORM keep_row_v1(OLD.project_id, OLD.bucket, OLD.id, OLD.user_id, k.until, 'threads', NULL, 0, OLD.id::text,
            row_to_json(OLD));
    END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER threads_keep BEFORE DELETE OR UPDATE OF name, title, user_id, metadata, preset, salt, trail_key
    ON threads FOR EACH ROW EXECUTE FUNCTION keep_thread();

-- A turn's row is only deleted with its thread, which is kept before.
CREATE FUNCTION keep_turn() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
DECLARE
    k record;
BEGIN
    IF NEW.thread_id <> OLD.thread_id THEN
        -- A fork inherits it from a thread that is about to be deleted.
        PERFORM lock_holds_v1(OLD.project_id);
        PERFORM keep_turns_v1(OLD.project_id, OLD.bucket, th.id, th.user_id, ARRAY[OLD.id], NULL) FROM threads th
            WHERE th.project_id = OLD.project_id AND th.bucket = OLD.bucket AND th.id = OLD.thread_id
                AND is_held_v1(OLD.project_id, th.id, th.user_id);
        RETURN NEW;
    END IF;
    FOR k IN SELECT * FROM keepers_v1(OLD.project_id, OLD.bucket, OLD.thread_id, OLD.id, OLD.arrived_at)
        WHERE NOT only_seals_v1(OLD.project_id, row_to_json(OLD), row_to_json(NEW))
    LOOP
        PERFORM keep_row_v1(OLD.project_id, OLD.bucket, k.keeper, k.of_user, k.until, 'turns', OLD.id, OLD.seq,
            OLD.id::text, row_to_json(OLD));
    END LOOP;
    RETURN NEW;
END
$function$;
-- A turn that ends loses nothing.
CREATE TRIGGER turns_keep_row BEFORE UPDATE OF
    thread_id, seq, parent_id, deleted_at, model, params, metadata, ignored, salt, body_hash, response, usage, cost, error,
    incomplete_details, pace, context
    ON turns FOR EACH ROW WHEN (OLD.completed_at IS NOT NULL OR NEW.completed_at IS NULL) EXECUTE FUNCTION keep_turn();

-- Refuse the deletion of a turn without its thread, whatever trigger or function runs it: the rows of the turn would go with
-- it, and not be kept.
CREATE FUNCTION keep_turn_whole() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
BEGIN
    PERFORM FROM threads th WHERE th.project_id = OLD.project_id AND th.bucket = OLD.bucket AND th.id = OLD.thread_id;
    IF FOUND THEN PERFORM refuse_row('turns_keep_check'); END IF;
    RETURN OLD;
END
$function$;
CREATE TRIGGER turns_keep_whole BEFORE DELETE ON turns FOR EACH ROW EXECUTE FUNCTION keep_turn_whole();

-- The age of contents decides on their minimum retention: nobody makes them older. The time of a thread's last change stays,
-- because the clocks of two workers may differ.
CREATE FUNCTION keep_age() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
BEGIN
    PERFORM FROM minimum_retentions_v1(OLD.project_id);
    IF NOT FOUND THEN RETURN NEW; END IF;
    IF TG_TABLE_NAME = 'turns' THEN PERFORM refuse_row('turns_arrived_check'); END IF;
    NEW.updated_at := OLD.updated_at;
    RETURN NEW;
END
$function$;
CREATE TRIGGER turns_keep_age BEFORE UPDATE OF arrived_at ON turns FOR EACH ROW
    WHEN (NEW.arrived_at < OLD.arrived_at) EXECUTE FUNCTION keep_age();
CREATE TRIGGER threads_keep_age BEFORE UPDATE OF updated_at ON threads FOR EACH ROW
    WHEN (NEW.updated_at < OLD.updated_at) EXECUTE FUNCTION keep_age();

-- Keep a row of a turn. The turn is not found if its thread is being deleted, which has kept everything.
-- Arguments: the columns that tell the row from others of its turn.
CREATE FUNCTION keep_of_turn() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
DECLARE
    its record;
    k record;
    whole json;
BEGIN
    SELECT t.thread_id, t.arrived_at INTO its FROM turns t
        WHERE t.project_id = OLD.project_id AND t.bucket = OLD.bucket AND t.id = OLD.turn_id;
    IF FOUND THEN
        FOR k IN SELECT * FROM keepers_v1(OLD.project_id, OLD.bucket, its.thread_id, OLD.turn_id, its.arrived_at) LOOP
            whole := coalesce(whole, row_to_json(OLD));
            IF TG_OP = 'UPDATE' THEN
                EXIT WHEN only_seals_v1(OLD.project_id, whole, row_to_json(NEW));
            END IF;
            PERFORM keep_row_v1(OLD.project_id, OLD.bucket, k.keeper, k.of_user, k.until, TG_TABLE_NAME, OLD.turn_id,
                CASE WHEN TG_ARGV[0] <> 'id' THEN (whole->>TG_ARGV[0])::integer ELSE 0 END,
                CASE WHEN TG_ARGV[0] = 'id' THEN whole->>'id'
                    ELSE concat_ws('/', OLD.turn_id, whole->>TG_ARGV[0], whole->>TG_ARGV[1]) END,
                whole);
            IF TG_TABLE_NAME = 'item_media' THEN
                PERFORM keep_medium_v1(OLD.project_id, OLD.bucket, k.keeper, k.of_user, k.until, OLD.media_id);
            END IF;
        END LOOP;
    END IF;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER items_keep BEFORE DELETE OR UPDATE OF turn_id, position, origin, type, item_id, data
    ON items FOR EACH ROW EXECUTE FUNCTION keep_of_turn('position');
CREATE TRIGGER calls_keep BEFORE DELETE OR UPDATE OF turn_id, attempt, url, frames, refs, error
    ON calls FOR EACH ROW EXECUTE FUNCTION keep_of_turn('attempt');
CREATE TRIGGER item_media_keep BEFORE DELETE OR UPDATE
    ON item_media FOR EACH ROW EXECUTE FUNCTION keep_of_turn('position', 'place');
CREATE TRIGGER compactions_keep BEFORE DELETE ON compactions FOR EACH ROW EXECUTE FUNCTION keep_of_turn('id');
-- A compaction without a text is being made, or is tried again.
CREATE TRIGGER compactions_keep_text BEFORE UPDATE OF turn_id, text, kept_items ON compactions FOR EACH ROW
    WHEN (OLD.text IS NOT NULL) EXECUTE FUNCTION keep_of_turn('id');
CREATE TRIGGER feedback_keep BEFORE DELETE OR UPDATE ON feedback FOR EACH ROW EXECUTE FUNCTION keep_of_turn('id');

CREATE FUNCTION keep_share() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
DECLARE
    k record;
BEGIN
    FOR k IN SELECT * FROM keepers_v1(OLD.project_id, OLD.bucket, OLD.thread_id, OLD.turn_id, OLD.created_at)
        WHERE keeper = OLD.thread_id
    LOOP
        IF TG_OP = 'UPDATE' THEN
            EXIT WHEN only_seals_v1(OLD.project_id, row_to_json(OLD), row_to_json(NEW));
        END IF;
        PERFORM keep_row_v1(OLD.project_id, OLD.bucket, k.keeper, k.of_user, k.until, 'shares', OLD.turn_id, 0, OLD.id::text,
            row_to_json(OLD));
    END LOOP;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER shares_keep BEFORE DELETE OR UPDATE ON shares FOR EACH ROW EXECUTE FUNCTION keep_share();

CREATE FUNCTION keep_piece() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
DECLARE
    former pieces := OLD;
    k record;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        -- A fork that takes over a piece seals the same text for its own place, in the transaction that has made the row.
        IF NEW.digest = OLD.digest AND NEW.data IS NOT NULL AND NEW.sources = OLD.sources
            AND OLD.xmin = pg_current_xact_id()::xid
        THEN
            RETURN NEW;
        END IF;
    END IF;
    FOR k IN SELECT * FROM keepers_v1(OLD.project_id, OLD.bucket, OLD.thread_id, NULL, NULL) LOOP
        IF TG_OP = 'UPDATE' THEN
            EXIT WHEN only_seals_v1(OLD.project_id, row_to_json(OLD), row_to_json(NEW));
        END IF;
        PERFORM keep_piece_v1(k.keeper, k.of_user, k.until, former);
    END LOOP;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER pieces_keep BEFORE DELETE OR UPDATE OF digest, sources, data, media_id
    ON pieces FOR EACH ROW EXECUTE FUNCTION keep_piece();

-- Media are kept with the item or the piece that refers to them. This keeps one that is overwritten, or that nothing refers
-- to any more.
CREATE FUNCTION keep_medium() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
DECLARE
    k record;
BEGIN
    FOR k IN SELECT * FROM keepers_v1(OLD.project_id, OLD.bucket, OLD.thread_id, NULL, NULL) LOOP
        IF TG_OP = 'UPDATE' THEN
            EXIT WHEN only_seals_v1(OLD.project_id, row_to_json(OLD), row_to_json(NEW));
        END IF;
        PERFORM keep_row_v1(OLD.project_id, OLD.bucket, k.keeper, k.of_user, k.until, 'media', NULL, 0, OLD.id::text,
            row_to_json(OLD));
    END LOOP;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER media_keep BEFORE DELETE OR UPDATE ON media FOR EACH ROW EXECUTE FUNCTION keep_medium();

-- Keep the key that the trail names a held user with: for the user's or the project's hold, and for each held thread of the
-- user.
CREATE FUNCTION keep_user_key() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
BEGIN
    PERFORM lock_holds_v1(OLD.project_id);
    INSERT INTO held_rows (project_id, bucket, thread_id, user_id, source, row_key, data)
        SELECT OLD.project_id, OLD.bucket, of_thread.id, OLD.user_id, 'user_keys', OLD.user_id, row_to_json(OLD)
        FROM (
            SELECT NULL::uuid AS id WHERE is_held_v1(OLD.project_id, NULL, OLD.user_id)
            UNION
            SELECT h.thread_id FROM holds h
            WHERE h.project_id = OLD.project_id AND h.released_at IS NULL AND h.scope = 'thread' AND (EXISTS (
                SELECT FROM threads th WHERE th.project_id = OLD.project_id AND th.bucket = bucket_of(h.thread_id)
                    AND th.id = h.thread_id AND th.user_id = OLD.user_id
            ) OR EXISTS (
                SELECT FROM held_rows r WHERE r.project_id = OLD.project_id AND r.bucket = bucket_of(h.thread_id)
                    AND r.thread_id = h.thread_id AND r.user_id = OLD.user_id
            ))
        ) AS of_thread;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER user_keys_keep BEFORE DELETE OR UPDATE ON user_keys FOR EACH ROW EXECUTE FUNCTION keep_user_key();

-- TRUNCATE fires no trigger for rows.
CREATE FUNCTION refuse_truncate() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
BEGIN
    LOCK TABLE holds IN SHARE MODE;
    PERFORM FROM holds h WHERE h.released_at IS NULL LIMIT 1;
    IF FOUND THEN PERFORM refuse_row('holds_truncate_check'); END IF;
    PERFORM FROM projects p WHERE p.minimum_retention_days IS NOT NULL OR p.minimum_retention_former <> '[]' LIMIT 1;
    IF FOUND THEN PERFORM refuse_row('minimum_retention_truncate_check'); END IF;
    RETURN NULL;
END
$function$;
CREATE TRIGGER threads_truncate BEFORE TRUNCATE ON threads FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER turns_truncate BEFORE TRUNCATE ON turns FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER items_truncate BEFORE TRUNCATE ON items FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER calls_truncate BEFORE TRUNCATE ON calls FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER item_media_truncate BEFORE TRUNCATE ON item_media FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER media_truncate BEFORE TRUNCATE ON media FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER pieces_truncate BEFORE TRUNCATE ON pieces FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER compactions_truncate BEFORE TRUNCATE ON compactions FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER feedback_truncate BEFORE TRUNCATE ON feedback FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER shares_truncate BEFORE TRUNCATE ON shares FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER user_keys_truncate BEFORE TRUNCATE ON user_keys FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER data_keys_truncate BEFORE TRUNCATE ON data_keys FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER holds_truncate BEFORE TRUNCATE ON holds FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER held_rows_truncate BEFORE TRUNCATE ON held_rows FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();

-- A hold is released once, and otherwise stays as it was placed. It is never deleted.
CREATE FUNCTION holds_guard() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
DECLARE
    changing text[] := CASE WHEN OLD.released_at IS NULL THEN '{released_at,released_by,release_reason}'::text[]
        WHEN OLD.erased_at IS NULL THEN '{erased_at,erased_rows,user_id}'::text[] ELSE '{}'::text[] END;
BEGIN
    IF TG_OP = 'DELETE' THEN PERFORM refuse_row('holds_keep_check'); END IF;
    IF to_jsonb(NEW) - changing = to_jsonb(OLD) - changing AND NEW.erased_rows >= OLD.erased_rows
        AND (NEW.user_id IS NOT DISTINCT FROM OLD.user_id OR NEW.user_id IS NULL AND NEW.erased_at IS NOT NULL)
        OR only_seals_v1(OLD.project_id, row_to_json(OLD), row_to_json(NEW))
    THEN
        RETURN NEW;
    END IF;
    PERFORM refuse_row('holds_keep_check');
END
$function$;
CREATE TRIGGER holds_guard BEFORE UPDATE OR DELETE ON holds FOR EACH ROW EXECUTE FUNCTION holds_guard();

-- What is held stays as it is, until no active hold covers it and its minimum retention has ended.
CREATE FUNCTION held_rows_guard() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NOT coalesce(only_seals_v1(OLD.project_id, OLD.data, NEW.data), false) OR (
            NEW.project_id, NEW.bucket, NEW.id, NEW.thread_id, NEW.user_id, NEW.source, NEW.turn_id, NEW.place, NEW.row_key,
            NEW.kept_at, NEW.keep_until
        ) IS DISTINCT FROM (
            OLD.project_id, OLD.bucket, OLD.id, OLD.thread_id, OLD.user_id, OLD.source, OLD.turn_id, OLD.place, OLD.row_key,
            OLD.kept_at, OLD.keep_until
        ) THEN
            PERFORM refuse_row('held_rows_keep_check');
        END IF;
        RETURN NEW;
    END IF;
    PERFORM lock_holds_v1(OLD.project_id);
    IF OLD.keep_until > now() OR is_held_v1(OLD.project_id, OLD.thread_id, OLD.user_id) THEN
        PERFORM refuse_row('held_rows_keep_check');
    END IF;
    RETURN OLD;
END
$function$;
CREATE TRIGGER held_rows_guard BEFORE UPDATE OR DELETE ON held_rows FOR EACH ROW EXECUTE FUNCTION held_rows_guard();

-- The key of a project with an active hold is not destroyed.
CREATE FUNCTION keep_key() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $function$
BEGIN
    PERFORM lock_holds_v1(OLD.project_id);
    PERFORM FROM holds h WHERE h.project_id = OLD.project_id AND h.released_at IS NULL;
    IF FOUND THEN PERFORM refuse_row('holds_key_check'); END IF;
    PERFORM FROM minimum_retentions_v1(OLD.project_id) m WHERE EXISTS (
        SELECT FROM turns t WHERE t.project_id = OLD.project_id AND t.arrived_at < m.until
            AND t.arrived_at > now() - make_interval(days => m.days)
    );
    IF FOUND OR EXISTS (SELECT FROM held_rows r WHERE r.project_id = OLD.project_id AND r.keep_until > now()) THEN
        PERFORM refuse_row('minimum_retention_key_check');
    END IF;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER data_keys_keep BEFORE DELETE OR UPDATE OF project_id, number ON data_keys FOR EACH ROW EXECUTE FUNCTION keep_key();
CREATE TRIGGER projects_keep_key BEFORE UPDATE OF key_destroyed_at ON projects
    FOR EACH ROW WHEN (OLD.key_destroyed_at IS NULL) EXECUTE FUNCTION keep_key();

-- A minimum retention that is lowered or removed stays in force for the contents written before. One that is raised covers
-- what is there: no deletion is under way that has not seen it.
CREATE FUNCTION projects_minimum_retention() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    NEW.minimum_retention_former := OLD.minimum_retention_former;
    IF NEW.minimum_retention_days > coalesce(OLD.minimum_retention_days, 0) THEN
        PERFORM pg_advisory_xact_lock(uuid_hash_extended(OLD.project_id, 2));
    ELSIF OLD.minimum_retention_days > coalesce(NEW.minimum_retention_days, 0) THEN
        SELECT coalesce(jsonb_agg(f.value), '[]') || jsonb_build_object(
                'days', OLD.minimum_retention_days, 'until', clock_timestamp()
            ) INTO NEW.minimum_retention_former
            FROM jsonb_array_elements(OLD.minimum_retention_former) f
            WHERE (f.value->>'until')::timestamptz + make_interval(days => (f.value->>'days')::integer) > now();
    END IF;
    RETURN NEW;
END
$function$;
CREATE TRIGGER projects_minimum_retention BEFORE UPDATE OF minimum_retention_days, minimum_retention_former ON projects
    FOR EACH ROW EXECUTE FUNCTION projects_minimum_retention();

-- =====================================================================================================================
-- Functions that write turns
-- =====================================================================================================================
-- Store the media that were taken out of items of a turn, and refer to them. The thread's row is locked. The digest of a
-- medium is made with the thread's key: its project's, or its user's.
--
-- media_: an array of objects with the fields of the record below.
CREATE FUNCTION keep_media_v1(project uuid, b smallint, thread uuid, turn uuid, media_ text) RETURNS void
LANGUAGE plpgsql AS $function$
DECLARE
    given record;
    kept uuid;
    thread_key bytea;
    keyed bytea;
BEGIN
    SELECT t.trail_key INTO thread_key FROM threads t
        WHERE t.project_id = project AND t.bucket = b AND t.id = thread;
    FOR given IN SELECT * FROM json_to_recordset(media_::json)
        AS m (id uuid, position integer, place integer, digest text, data text)
    LOOP
        keyed := trail_digest_v1(thread_key, 'media', given.digest);
        SELECT m.id INTO kept FROM media m
            WHERE m.project_id = project AND m.bucket = b AND m.thread_id = thread AND m.digest = keyed;
        IF kept IS NULL THEN
            kept := given.id;
            INSERT INTO media (project_id, bucket, id, thread_id, digest, data)
                VALUES (project, b, kept, thread, keyed, given.data);
        END IF;
        INSERT INTO item_media (project_id, bucket, turn_id, position, place, media_id)
            VALUES (project, b, turn, given.position, given.place, kept);
    END LOOP;
END
$function$;

-- Open a turn. Its record covers the place that the turn gets: its number, its parent, and whether it runs beside another
-- turn. For an end user, the thread must be the user's own.
--
-- The thread's row is locked, so that its head is the one that the last turn left. Two indexes decide whether the turn may
-- be inserted: another turn that moves the head is in progress, or one with the same Idempotency-Key exists. Zero rows
-- inserted is the outcome 'busy', not an error. The function also checks that a name still belongs to this thread, and the
-- place among those who wait.
--
-- outcome: opened, busy, no_thread, no_parent.
CREATE FUNCTION open_turn_v3(
    project uuid, b smallint,
    thread uuid,              -- the thread; NULL where it is found by a turn of it, whichever it is
    after_turn uuid,          -- that turn
    by_name text,             -- the name that the thread must have
    of_user text,             -- whose the thread must be; NULL: anybody's
    new_thread boolean,       -- whether this turn makes the thread
    new_user text, new_trail_key bytea, new_salt bytea,
    turn uuid, parent uuid, first boolean,
    beside_ text,             -- never, always, or if_needed: where the thread is busy, or the parent not its head
    ticket uuid,
    model_ text, params_ text, metadata_ text, ignored_ text[],
    worker uuid, lease_seconds float8, api_key uuid, idem_key text, body_hash_ bytea, salt_ bytea,
    types text[], item_ids text[], data_ text[],
    address text, created_content bytea, opened_content bytea,
    media_ text,              -- of the items, as keep_media_v1 takes them
    OUT outcome text, OUT thread_id_ uuid, OUT parent_id_ uuid, OUT created_at_ timestamptz, OUT parent_forgotten boolean
) LANGUAGE plpgsql AS $function$
DECLARE
    said text;  -- An assignment is no statement of its own, as PERFORM is.
    at_ timestamptz;
    th record;
    of_thread uuid;
    is_beside boolean := beside_ = 'always';
    chain bigint;
    before bytea;
    after bytea;
    who bytea;
    whence bytea;
    placed_content bytea;
BEGIN
    thread_id_ := thread;
    IF after_turn IS NOT NULL THEN
        SELECT t.thread_id INTO thread_id_ FROM turns t
            WHERE t.project_id = project AND t.bucket = b AND t.id = after_turn AND t.deleted_at IS NULL
                AND (thread IS NULL OR t.thread_id = thread);
    END IF;
    IF new_thread THEN
        at_ := clock_timestamp();
        INSERT INTO threads (project_id, bucket, id, salt, user_id, trail_key, created_at, updated_at, arrived_at)
            SELECT project, b, thread, new_salt, new_user, coalesce(new_trail_key, p.trail_key), at_, at_, at_
                FROM projects p WHERE p.project_id = project;
        INSERT INTO thread_activity (project_id, bucket, thread_id, active_at) VALUES (project, b, thread, at_);
    END IF;
    SELECT t.name, t.user_id, t.head_turn_id, t.last_seq, t.chain_seq, t.chain_hash, t.trail_key INTO th FROM threads t
        WHERE t.project_id = project AND t.bucket = b AND t.id = thread_id_ AND (of_user IS NULL OR t.user_id = of_user)
        FOR NO KEY UPDATE;
    IF NOT FOUND OR th.name IS DISTINCT FROM coalesce(by_name, th.name) THEN
        outcome := 'no_thread';
        RETURN;
    END IF;
    at_ := coalesce(at_, clock_timestamp());  -- Not before the lock: a chain's moments go upwards.

    parent_id_ := CASE WHEN NOT first THEN coalesce(parent, th.head_turn_id) END;
    IF parent_id_ IS NOT NULL THEN
        SELECT t.thread_id, t.response_unknown_at IS NOT NULL INTO of_thread, parent_forgotten FROM turns t
            WHERE t.project_id = project AND t.bucket = b AND t.id = parent_id_
                AND (t.deleted_at IS NULL OR parent IS NULL);
        IF NOT FOUND OR (of_thread <> thread_id_ AND NOT in_history(project, b, thread_id_, parent_id_)) THEN
            outcome := 'no_parent';
            RETURN;
        END IF;
    END IF;
    IF beside_ = 'if_needed' THEN
        is_beside := parent_id_ IS DISTINCT FROM th.head_turn_id OR EXISTS (
            SELECT FROM turns t WHERE t.project_id = project AND t.bucket = b AND t.thread_id = thread_id_
                AND t.beside = 0 AND t.status = 'in_progress'
        );
    END IF;
    IF ticket IS NOT NULL THEN
        PERFORM FROM waiters w WHERE w.project_id = project AND w.bucket = b AND w.thread_id = thread_id_
            AND w.id < ticket AND w.expires_at > at_;
        IF FOUND THEN
            outcome := 'busy';
            RETURN;
        END IF;
    END IF;

    said := set_config('everthread.function', 'open_turn_v3', true);
    INSERT INTO turns (
        project_id, bucket, id, thread_id, seq, beside, parent_id, status, model, params, metadata, ignored,
        created_at, arrived_at, worker_id, lease_expires_at, api_key_id, idempotency_key, key_scope, body_hash, salt
    ) VALUES (
        project, b, turn, thread_id_, th.last_seq + 1, CASE WHEN is_beside THEN th.last_seq + 1 ELSE 0 END,
        parent_id_, 'in_progress', model_, params_::json, metadata_::jsonb, ignored_, at_, at_, worker,
        at_ + lease_seconds * interval '1 second', api_key, idem_key,
        CASE WHEN idem_key IS NOT NULL THEN CASE WHEN new_thread THEN project ELSE thread_id_ END END,
        body_hash_, salt_
    ) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        IF new_thread THEN
            -- Nobody has heard of it.
            DELETE FROM threads t WHERE t.project_id = project AND t.bucket = b AND t.id = thread;
        END IF;
        outcome := 'busy';
        said := set_config('everthread.function', '', true);
        RETURN;
    END IF;
    FOR i IN 1..cardinality(types) LOOP
        INSERT INTO items (project_id, bucket, turn_id, position, origin, type, item_id, data)
            VALUES (project, b, turn, i - 1, 'input', types[i], item_ids[i], data_[i]::json);
    END LOOP;
    IF media_ IS NOT NULL THEN
        PERFORM keep_media_v1(project, b, thread_id_, turn, media_);
    END IF;

    chain := th.chain_seq;
    before := th.chain_hash;
    who := trail_digest_v1(th.trail_key, 'user', th.user_id);
    whence := trail_digest_v1(th.trail_key, 'address', address);
    IF new_thread THEN
        chain := chain + 1;
        after := record_hash_v2(project, thread_id_, chain, at_, 'thread.created', NULL, api_key, who, whence, NULL,
            created_content, before);
        INSERT INTO audit_records (project_id, bucket, chain_id, seq, at, action, key_id, user_digest, address_digest,
                content, previous, hash)
            VALUES (project, b, thread_id_, chain, at_, 'thread.created', api_key, who, whence, created_content,
                before, after);
        before := after;
    END IF;
    -- The list of fields ("placed", 2) of app/trail/contents.py.
    placed_content := sha256(opened_content || convert_to('["placed",2,' || (th.last_seq + 1) || ','
        || CASE WHEN is_beside THEN th.last_seq + 1 ELSE 0 END || ','
        || coalesce('"' || parent_id_ || '"', 'null') || ']', 'UTF8'));
    chain := chain + 1;
    after := record_hash_v2(project, thread_id_, chain, at_, 'turn.opened', turn, api_key, who, whence, NULL,
        placed_content, before);
    INSERT INTO audit_records (project_id, bucket, chain_id, seq, at, action, turn_id, key_id, user_digest,
            address_digest, content, previous, hash)
        VALUES (project, b, thread_id_, chain, at_, 'turn.opened', turn, api_key, who, whence, placed_content, before,
            after);
    UPDATE threads t SET last_seq = th.last_seq + 1, chain_seq = chain, chain_hash = after
        WHERE t.project_id = project AND t.bucket = b AND t.id = thread_id_;
    said := set_config('everthread.function', '', true);
    outcome := 'opened';
    created_at_ := at_;
END
$function$;

-- The same, and returns why the parent's response id is of no use any more, if it is not.
CREATE FUNCTION open_turn_v4(
    project uuid, b smallint,
    thread uuid,              -- the thread; NULL where it is found by a turn of it, whichever it is
    after_turn uuid,          -- that turn
    by_name text,             -- the name that the thread must have
    of_user text,             -- whose the thread must be; NULL: anybody's
    new_thread boolean,       -- whether this turn makes the thread
    new_user text, new_trail_key bytea, new_salt bytea,
    turn uuid, parent uuid, first boolean,
    beside_ text,             -- never, always, or if_needed: where the thread is busy, or the parent not its head
    ticket uuid,
    model_ text, params_ text, metadata_ text, ignored_ text[],
    worker uuid, lease_seconds float8, api_key uuid, idem_key text, body_hash_ bytea, salt_ bytea,
    types text[], item_ids text[], data_ text[],
    address text, created_content bytea, opened_content bytea,
    media_ text,              -- of the items, as keep_media_v1 takes them
    OUT outcome text, OUT thread_id_ uuid, OUT parent_id_ uuid, OUT created_at_ timestamptz, OUT parent_lost text
) LANGUAGE plpgsql AS $function$
DECLARE
    said text;  -- An assignment is no statement of its own, as PERFORM is.
    at_ timestamptz;
    th record;
    of_thread uuid;
    is_beside boolean := beside_ = 'always';
    chain bigint;
    before bytea;
    after bytea;
    who bytea;
    whence bytea;
    placed_content bytea;
BEGIN
    thread_id_ := thread;
    IF after_turn IS NOT NULL THEN
        SELECT t.thread_id INTO thread_id_ FROM turns t
            WHERE t.project_id = project AND t.bucket = b AND t.id = after_turn AND t.deleted_at IS NULL
                AND (thread IS NULL OR t.thread_id = thread);
    END IF;
    IF new_thread THEN
        at_ := clock_timestamp();
        INSERT INTO threads (project_id, bucket, id, salt, user_id, trail_key, created_at, updated_at, arrived_at)
            SELECT project, b, thread, new_salt, new_user, coalesce(new_trail_key, p.trail_key), at_, at_, at_
                FROM projects p WHERE p.project_id = project;
        INSERT INTO thread_activity (project_id, bucket, thread_id, active_at) VALUES (project, b, thread, at_);
    END IF;
    SELECT t.name, t.user_id, t.head_turn_id, t.last_seq, t.chain_seq, t.chain_hash, t.trail_key INTO th FROM threads t
        WHERE t.project_id = project AND t.bucket = b AND t.id = thread_id_ AND (of_user IS NULL OR t.user_id = of_user)
        FOR NO KEY UPDATE;
    IF NOT FOUND OR th.name IS DISTINCT FROM coalesce(by_name, th.name) THEN
        outcome := 'no_thread';
        RETURN;
    END IF;
    at_ := coalesce(at_, clock_timestamp());  -- Not before the lock: a chain's moments go upwards.

    parent_id_ := CASE WHEN NOT first THEN coalesce(parent, th.head_turn_id) END;
    IF parent_id_ IS NOT NULL THEN
        SELECT t.thread_id, CASE WHEN t.response_unknown_at IS NOT NULL THEN
                coalesce(t.response_unknown_reason, 'response_id_dropped') END
            INTO of_thread, parent_lost FROM turns t
            WHERE t.project_id = project AND t.bucket = b AND t.id = parent_id_
                AND (t.deleted_at IS NULL OR parent IS NULL);
        IF NOT FOUND OR (of_thread <> thread_id_ AND NOT in_history(project, b, thread_id_, parent_id_)) THEN
            outcome := 'no_parent';
            RETURN;
        END IF;
    END IF;
    IF beside_ = 'if_needed' THEN
        is_beside := parent_id_ IS DISTINCT FROM th.head_turn_id OR EXISTS (
            SELECT FROM turns t WHERE t.project_id = project AND t.bucket = b AND t.thread_id = thread_id_
                AND t.beside = 0 AND t.status = 'in_progress'
        );
    END IF;
    IF ticket IS NOT NULL THEN
        PERFORM FROM waiters w WHERE w.project_id = project AND w.bucket = b AND w.thread_id = thread_id_
            AND w.id < ticket AND w.expires_at > at_;
        IF FOUND THEN
            outcome := 'busy';
            RETURN;
        END IF;
    END IF;

    said := set_config('everthread.function', 'open_turn_v4', true);
    INSERT INTO turns (
        project_id, bucket, id, thread_id, seq, beside, parent_id, status, model, params, metadata, ignored,
        created_at, arrived_at, worker_id, lease_expires_at, api_key_id, idempotency_key, key_scope, body_hash, salt
    ) VALUES (
        project, b, turn, thread_id_, th.last_seq + 1, CASE WHEN is_beside THEN th.last_seq + 1 ELSE 0 END,
        parent_id_, 'in_progress', model_, params_::json, metadata_::jsonb, ignored_, at_, at_, worker,
        at_ + lease_seconds * interval '1 second', api_key, idem_key,
        CASE WHEN idem_key IS NOT NULL THEN CASE WHEN new_thread THEN project ELSE thread_id_ END END,
        body_hash_, salt_
    ) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        IF new_thread THEN
            -- Nobody has heard of it.
            DELETE FROM threads t WHERE t.project_id = project AND t.bucket = b AND t.id = thread;
        END IF;
        outcome := 'busy';
        said := set_config('everthread.function', '', true);
        RETURN;
    END IF;
    FOR i IN 1..cardinality(types) LOOP
        INSERT INTO items (project_id, bucket, turn_id, position, origin, type, item_id, data)
            VALUES (project, b, turn, i - 1, 'input', types[i], item_ids[i], data_[i]::json);
    END LOOP;
    IF media_ IS NOT NULL THEN
        PERFORM keep_media_v1(project, b, thread_id_, turn, media_);
    END IF;

    chain := th.chain_seq;
    before := th.chain_hash;
    who := trail_digest_v1(th.trail_key, 'user', th.user_id);
    whence := trail_digest_v1(th.trail_key, 'address', address);
    IF new_thread THEN
        chain := chain + 1;
        after := record_hash_v2(project, thread_id_, chain, at_, 'thread.created', NULL, api_key, who, whence, NULL,
            created_content, before);
        INSERT INTO audit_records (project_id, bucket, chain_id, seq, at, action, key_id, user_digest, address_digest,
                content, previous, hash)
            VALUES (project, b, thread_id_, chain, at_, 'thread.created', api_key, who, whence, created_content,
                before, after);
        before := after;
    END IF;
    -- The list of fields ("placed", 2) of app/trail/contents.py.
    placed_content := sha256(opened_content || convert_to('["placed",2,' || (th.last_seq + 1) || ','
        || CASE WHEN is_beside THEN th.last_seq + 1 ELSE 0 END || ','
        || coalesce('"' || parent_id_ || '"', 'null') || ']', 'UTF8'));
    chain := chain + 1;
    after := record_hash_v2(project, thread_id_, chain, at_, 'turn.opened', turn, api_key, who, whence, NULL,
        placed_content, before);
    INSERT INTO audit_records (project_id, bucket, chain_id, seq, at, action, turn_id, key_id, user_digest,
            address_digest, content, previous, hash)
        VALUES (project, b, thread_id_, chain, at_, 'turn.opened', turn, api_key, who, whence, placed_content, before,
            after);
    UPDATE threads t SET last_seq = th.last_seq + 1, chain_seq = chain, chain_hash = after
        WHERE t.project_id = project AND t.bucket = b AND t.id = thread_id_;
    said := set_config('everthread.function', '', true);
    outcome := 'opened';
    created_at_ := at_;
END
$function$;

-- Close a turn with its outcome, output, calls and records in one call on the shard of its thread. Returns NULL if the turn
-- is closed already. The thread's row is locked before the turn's, as everywhere: otherwise this and the deletion of a
-- thread would wait for each other.
CREATE FUNCTION close_turn_v3(
    project uuid, b smallint, thread uuid, turn uuid,
    status_ text, continuation_ text, response_ text, usage_ text, cost_ text, error_ text, incomplete_details_ text,
    binding_ text, response_id_ text, response_created_at_ timestamptz, response_expires_at_ timestamptz,
    error_status_ smallint, pace_ text, context_ text,
    first_position integer, types text[], item_ids text[], data_ text[],
    continuations text[], urls text[], frames_ text[], frame_counts integer[], refs_ integer[],
    piece_digests bytea[], piece_sources text[], piece_data text[], dropped integer[], statuses integer[], response_ids text[],
    errors text[], began timestamptz[], ended timestamptz[],
    api_key uuid, address text, actions text[], details text[], contents bytea[],
    media_ text, piece_media uuid[]
) RETURNS timestamptz LANGUAGE plpgsql AS $function$
DECLARE
    said text;  -- An assignment is no statement of its own, as PERFORM is.
    at_ timestamptz;
    thread_id_ uuid := thread;
    closed record;
    th record;
    last_piece integer;
    sources_ text[];
    first_frame integer := 1;
    first_ref integer := 1;
    chain bigint;
    before bytea;
    after bytea;
    who bytea;
    whence bytea;
BEGIN
    IF thread_id_ IS NULL THEN
        SELECT t.thread_id INTO thread_id_ FROM turns t
            WHERE t.project_id = project AND t.bucket = b AND t.id = turn;
    END IF;
    SELECT t.user_id, t.head_turn_id, t.chain_seq, t.chain_hash, t.trail_key INTO th FROM threads t
        WHERE t.project_id = project AND t.bucket = b AND t.id = thread_id_ FOR NO KEY UPDATE;
    at_ := clock_timestamp();  -- Not before the lock: a chain's moments go upwards.
    said := set_config('everthread.function', 'close_turn_v3', true);
    UPDATE turns t SET
        status = status_, continuation = continuation_, response = response_::json, usage = usage_::json,
        cost = cost_::json, error = error_::json, incomplete_details = incomplete_details_::json, binding = binding_,
        response_id = response_id_, response_created_at = response_created_at_,
        response_expires_at = response_expires_at_, completed_at = at_, lease_expires_at = NULL,
        error_status = error_status_, pace = pace_::json, context = context_::json
        WHERE t.project_id = project AND t.bucket = b AND t.id = turn AND t.completed_at IS NULL
        RETURNING t.beside, t.parent_id INTO closed;
    IF NOT FOUND THEN
        said := set_config('everthread.function', '', true);
        RETURN NULL;
    END IF;
    FOR i IN 1..cardinality(types) LOOP
        INSERT INTO items (project_id, bucket, turn_id, position, origin, type, item_id, data)
            VALUES (project, b, turn, first_position + i - 1, 'output', types[i], item_ids[i], data_[i]::json);
    END LOOP;
    IF media_ IS NOT NULL THEN
        PERFORM keep_media_v1(project, b, thread_id_, turn, media_);
    END IF;
    IF cardinality(piece_digests) > 0 THEN
        SELECT coalesce(max(p.number), 0) INTO last_piece FROM pieces p
            WHERE p.project_id = project AND p.bucket = b AND p.thread_id = thread_id_;
        FOR i IN 1..cardinality(piece_digests) LOOP
            sources_ := ARRAY(SELECT json_array_elements_text(piece_sources[i]::json));
            INSERT INTO pieces (project_id, bucket, thread_id, number, digest, sources, data, media_id)
                VALUES (project, b, thread_id_, last_piece + i, piece_digests[i], sources_, piece_data[i],
                    piece_media[i]);
        END LOOP;
        -- Without those of items and summaries that were deleted while the turn ran, in a history that a fork shares.
        UPDATE pieces p SET data = NULL, media_id = NULL, sources = '{}', digest = ''
            WHERE p.project_id = project AND p.bucket = b AND p.thread_id = thread_id_ AND p.number > last_piece
                AND EXISTS (
                    SELECT FROM unnest(p.sources) AS s (source_id)
                    WHERE NOT EXISTS (
                        SELECT FROM items i WHERE i.item_id = s.source_id AND i.project_id = project AND i.bucket = b
                    ) AND NOT EXISTS (
                        SELECT FROM compactions c WHERE c.project_id = project AND c.bucket = b
                            AND c.id = CASE WHEN s.source_id ~ '^cmp_[0-9a-f]{32}$' THEN substr(s.source_id, 5)::uuid END
                    )
                );
        -- New pieces were counted down from -1.
        refs_ := ARRAY(
            SELECT CASE WHEN r.ref < 0 THEN last_piece - r.ref ELSE r.ref END
            FROM unnest(refs_) WITH ORDINALITY AS r (ref, place) ORDER BY r.place
        );
    END IF;
    FOR i IN 1..cardinality(frame_counts) LOOP
        INSERT INTO calls (
            project_id, bucket, turn_id, attempt, continuation, url, frames, refs, dropped_items, status, response_id,
            error, started_at, finished_at
        ) VALUES (
            project, b, turn, i, continuations[i], urls[i],
            frames_[first_frame : first_frame + frame_counts[i] - 1],
            refs_[first_ref : first_ref + 2 * frame_counts[i] - 3],
            dropped[i], statuses[i], response_ids[i], errors[i]::json, began[i], ended[i]
        );
        first_frame := first_frame + frame_counts[i];
        first_ref := first_ref + 2 * frame_counts[i] - 2;
    END LOOP;

    chain := th.chain_seq;
    before := th.chain_hash;
    who := trail_digest_v1(th.trail_key, 'user', th.user_id);
    whence := trail_digest_v1(th.trail_key, 'address', address);
    FOR i IN 1..cardinality(actions) LOOP
        chain := chain + 1;
        after := record_hash_v2(project, thread_id_, chain, at_, actions[i], turn, api_key, who, whence, details[i],
            contents[i], before);
        INSERT INTO audit_records (project_id, bucket, chain_id, seq, at, action, turn_id, key_id, user_digest,
                address_digest, detail, content, previous, hash)
            VALUES (project, b, thread_id_, chain, at_, actions[i], turn, api_key, who, whence, details[i], contents[i],
                before, after);
        before := after;
    END LOOP;
    -- A turn that ran beside another moves the head only if it still continues from it.
    UPDATE threads t SET
        head_turn_id = CASE
            WHEN status_ = 'failed' OR (closed.beside <> 0 AND t.head_turn_id IS DISTINCT FROM closed.parent_id)
            THEN t.head_turn_id ELSE turn END,
        turn_count = t.turn_count + 1, updated_at = at_, chain_seq = chain, chain_hash = before
        WHERE t.project_id = project AND t.bucket = b AND t.id = thread_id_;
    UPDATE thread_activity a SET active_at = at_
        WHERE a.project_id = project AND a.bucket = b AND a.thread_id = thread_id_;
    said := set_config('everthread.function', '', true);
    RETURN at_;
END
$function$;

-- The same, with the reasons for continuations.
CREATE FUNCTION close_turn_v4(
    project uuid, b smallint, thread uuid, turn uuid,
    status_ text, continuation_ text, continuation_reason_ text, response_ text, usage_ text, cost_ text, error_ text,
    incomplete_details_ text,
    binding_ text, response_id_ text, response_created_at_ timestamptz, response_expires_at_ timestamptz,
    error_status_ smallint, pace_ text, context_ text,
    first_position integer, types text[], item_ids text[], data_ text[],
    continuations text[], continuation_reasons text[], urls text[], frames_ text[], frame_counts integer[], refs_ integer[],
    piece_digests bytea[], piece_sources text[], piece_data text[], dropped integer[], statuses integer[], response_ids text[],
    errors text[], began timestamptz[], ended timestamptz[],
    api_key uuid, address text, actions text[], details text[], contents bytea[],
    media_ text, piece_media uuid[]
) RETURNS timestamptz LANGUAGE plpgsql AS $function$
DECLARE
    said text;  -- An assignment is no statement of its own, as PERFORM is.
    at_ timestamptz;
    thread_id_ uuid := thread;
    closed record;
    th record;
    last_piece integer;
    sources_ text[];
    first_frame integer := 1;
    first_ref integer := 1;
    chain bigint;
    before bytea;
    after bytea;
    who bytea;
    whence bytea;
BEGIN
    IF thread_id_ IS NULL THEN
        SELECT t.thread_id INTO thread_id_ FROM turns t
            WHERE t.project_id = project AND t.bucket = b AND t.id = turn;
    END IF;
    SELECT t.user_id, t.head_turn_id, t.chain_seq, t.chain_hash, t.trail_key INTO th FROM threads t
        WHERE t.project_id = project AND t.bucket = b AND t.id = thread_id_ FOR NO KEY UPDATE;
    at_ := clock_timestamp();  -- Not before the lock: a chain's moments go upwards.
    said := set_config('everthread.function', 'close_turn_v4', true);
    UPDATE turns t SET
        status = status_, continuation = continuation_, continuation_reason = continuation_reason_,
        response = response_::json, usage = usage_::json, cost = cost_::json, error = error_::json,
        incomplete_details = incomplete_details_::json, binding = binding_, response_id = response_id_,
        response_created_at = response_created_at_, response_expires_at = response_expires_at_, completed_at = at_,
        lease_expires_at = NULL,
        error_status = error_status_, pace = pace_::json, context = context_::json
        WHERE t.project_id = project AND t.bucket = b AND t.id = turn AND t.completed_at IS NULL
        RETURNING t.beside, t.parent_id INTO closed;
    IF NOT FOUND THEN
        said := set_config('everthread.function', '', true);
        RETURN NULL;
    END IF;
    FOR i IN 1..cardinality(types) LOOP
        INSERT INTO items (project_id, bucket, turn_id, position, origin, type, item_id, data)
            VALUES (project, b, turn, first_position + i - 1, 'output', types[i], item_ids[i], data_[i]::json);
    END LOOP;
    IF media_ IS NOT NULL THEN
        PERFORM keep_media_v1(project, b, thread_id_, turn, media_);
    END IF;
    IF cardinality(piece_digests) > 0 THEN
        SELECT coalesce(max(p.number), 0) INTO last_piece FROM pieces p
            WHERE p.project_id = project AND p.bucket = b AND p.thread_id = thread_id_;
        FOR i IN 1..cardinality(piece_digests) LOOP
            sources_ := ARRAY(SELECT json_array_elements_text(piece_sources[i]::json));
            INSERT INTO pieces (project_id, bucket, thread_id, number, digest, sources, data, media_id)
                VALUES (project, b, thread_id_, last_piece + i, piece_digests[i], sources_, piece_data[i],
                    piece_media[i]);
        END LOOP;
        -- Without those of items and summaries that were deleted while the turn ran, in a history that a fork shares.
        UPDATE pieces p SET data = NULL, media_id = NULL, sources = '{}', digest = ''
            WHERE p.project_id = project AND p.bucket = b AND p.thread_id = thread_id_ AND p.number > last_piece
                AND EXISTS (
                    SELECT FROM unnest(p.sources) AS s (source_id)
                    WHERE NOT EXISTS (
                        SELECT FROM items i WHERE i.item_id = s.source_id AND i.project_id = project AND i.bucket = b
                    ) AND NOT EXISTS (
                        SELECT FROM compactions c WHERE c.project_id = project AND c.bucket = b
                            AND c.id = CASE WHEN s.source_id ~ '^cmp_[0-9a-f]{32}$' THEN substr(s.source_id, 5)::uuid END
                    )
                );
        -- New pieces were counted down from -1.
        refs_ := ARRAY(
            SELECT CASE WHEN r.ref < 0 THEN last_piece - r.ref ELSE r.ref END
            FROM unnest(refs_) WITH ORDINALITY AS r (ref, place) ORDER BY r.place
        );
    END IF;
    FOR i IN 1..cardinality(frame_counts) LOOP
        INSERT INTO calls (
            project_id, bucket, turn_id, attempt, continuation, continuation_reason, url, frames, refs, dropped_items,
            status, response_id, error, started_at, finished_at
        ) VALUES (
            project, b, turn, i, continuations[i], continuation_reasons[i], urls[i],
            frames_[first_frame : first_frame + frame_counts[i] - 1],
            refs_[first_ref : first_ref + 2 * frame_counts[i] - 3],
            dropped[i], statuses[i], response_ids[i], errors[i]::json, began[i], ended[i]
        );
        first_frame := first_frame + frame_counts[i];
        first_ref := first_ref + 2 * frame_counts[i] - 2;
    END LOOP;

    chain := th.chain_seq;
    before := th.chain_hash;
    who := trail_digest_v1(th.trail_key, 'user', th.user_id);
    whence := trail_digest_v1(th.trail_key, 'address', address);
    FOR i IN 1..cardinality(actions) LOOP
        chain := chain + 1;
        after := record_hash_v2(project, thread_id_, chain, at_, actions[i], turn, api_key, who, whence, details[i],
            contents[i], before);
        INSERT INTO audit_records (project_id, bucket, chain_id, seq, at, action, turn_id, key_id, user_digest,
                address_digest, detail, content, previous, hash)
            VALUES (project, b, thread_id_, chain, at_, actions[i], turn, api_key, who, whence, details[i], contents[i],
                before, after);
        before := after;
    END LOOP;
    -- A turn that ran beside another moves the head only if it still continues from it.
    UPDATE threads t SET
        head_turn_id = CASE
            WHEN status_ = 'failed' OR (closed.beside <> 0 AND t.head_turn_id IS DISTINCT FROM closed.parent_id)
            THEN t.head_turn_id ELSE turn END,
        turn_count = t.turn_count + 1, updated_at = at_, chain_seq = chain, chain_hash = before
        WHERE t.project_id = project AND t.bucket = b AND t.id = thread_id_;
    UPDATE thread_activity a SET active_at = at_
        WHERE a.project_id = project AND a.bucket = b AND a.thread_id = thread_id_;
    said := set_config('everthread.function', '', true);
    RETURN at_;
END
$function$;

-- =====================================================================================================================
-- Functions for reading
-- =====================================================================================================================
-- Return messages that may match, newest first.
CREATE FUNCTION found_messages_v1(
    project uuid, asked tsquery, here_before timestamptz, since timestamptz, until timestamptz, of_user text,
    thread uuid,
    older_than uuid,  -- the lowest turn that has been looked at
    most integer
) RETURNS TABLE (bucket smallint, id uuid, "position" integer, size integer)
-- A bitmap that does not fit into work_mem is lossy, and each text would have to be parsed again.
LANGUAGE plpgsql STABLE SET work_mem = '256MB' AS $function$
BEGIN
    RETURN QUERY SELECT i.bucket, i.turn_id, i.position::integer, pg_column_size(i.data) FROM items i
    WHERE i.project_id = project AND i.type = 'message'
        AND message_lexemes_v1(i.project_id, i.turn_id, i.data) @@ asked AND (older_than IS NULL OR i.turn_id < older_than)
        AND (here_before IS NULL AND since IS NULL AND until IS NULL AND of_user IS NULL AND thread IS NULL OR EXISTS (
            SELECT FROM turns t JOIN threads th ON th.project_id = project AND th.bucket = i.bucket AND th.id = t.thread_id
            WHERE t.project_id = project AND t.bucket = i.bucket AND t.id = i.turn_id
                AND (here_before IS NULL OR t.arrived_at < here_before)
                AND (since IS NULL OR t.created_at >= since) AND (until IS NULL OR t.created_at < until)
                AND (of_user IS NULL OR th.user_id = of_user) AND (thread IS NULL OR th.id = thread)
        ))
    ORDER BY i.turn_id DESC, i.position DESC LIMIT most;
END
$function$;

-- Return titles that may match, of the newest threads first.
CREATE FUNCTION found_titles_v1(
    project uuid, asked tsquery, here_before timestamptz, since timestamptz, until timestamptz, of_user text,
    thread uuid, most integer
) RETURNS TABLE (id uuid, title text) LANGUAGE plpgsql STABLE AS $function$
BEGIN
    RETURN QUERY SELECT th.id, th.title FROM threads th
    WHERE th.project_id = project AND th.title IS NOT NULL
        AND title_lexemes_v1(th.project_id, th.title) @@ asked
        AND (here_before IS NULL OR th.arrived_at < here_before)
        AND (since IS NULL OR th.created_at >= since) AND (until IS NULL OR th.created_at < until)
        AND (of_user IS NULL OR th.user_id = of_user) AND (thread IS NULL OR th.id = thread)
    ORDER BY th.id DESC LIMIT most;
END
$function$;

-- Return a page of threads. The statement is composed of the filters given, so that each combination gets its own plan.
CREATE FUNCTION listed_threads_v1(
    project uuid, of_user text,
    name_begins text,
    pairs jsonb, sealed_pairs jsonb,  -- of the metadata: threads have the ones, or the others
    is_archived boolean, is_busy boolean,
    created_after timestamptz, created_before timestamptz, updated_after timestamptz, updated_before timestamptz,
    by_activity boolean,              -- ordered by when it was last spoken in, and not by when it came to be here
    downwards boolean,                -- NULL: in no order
    from_moment timestamptz, from_id uuid,  -- the place in that order that the list begins behind
    until timestamptz,                -- where it ends
    most integer
) RETURNS TABLE (bucket smallint, id uuid) LANGUAGE plpgsql STABLE ROWS 20 AS $function$
DECLARE
    place text := CASE WHEN by_activity THEN 'a.active_at, a.thread_id' ELSE 'th.arrived_at, th.id' END;
    moment text := split_part(place, ',', 1);
BEGIN
    RETURN QUERY EXECUTE concat(
        'SELECT th.bucket, th.id FROM threads th ',
        CASE WHEN by_activity THEN 'JOIN thread_activity a ON a.project_id = $1 AND a.bucket = th.bucket AND a.thread_id = th.id ' END,
        'WHERE th.project_id = $1',
        CASE WHEN of_user IS NOT NULL THEN ' AND th.user_id = $2' END,
        CASE WHEN name_begins IS NOT NULL THEN
            ' AND th.name LIKE $3 AND th.id IN (SELECT thread_id FROM thread_names WHERE project_id = $1 AND name LIKE $3)' END,
        CASE WHEN pairs IS NOT NULL THEN $$ AND th.metadata <> '{}' AND (th.metadata @> $4$$ END,
        CASE WHEN sealed_pairs IS NOT NULL THEN ' OR th.metadata @> $5' END,
        CASE WHEN pairs IS NOT NULL THEN ')' END,
        CASE is_archived WHEN true THEN ' AND th.archived_at IS NOT NULL' WHEN false THEN ' AND th.archived_at IS NULL' END,
        CASE WHEN is_busy IS NOT NULL THEN concat(
            CASE WHEN NOT is_busy THEN ' AND NOT' ELSE ' AND' END,
            ' EXISTS (SELECT FROM turns t WHERE t.project_id = $1 AND t.bucket = th.bucket AND t.thread_id = th.id',
            $$ AND t.status = 'in_progress')$$) END,
        CASE WHEN created_after IS NOT NULL THEN ' AND th.created_at > $6' END,
        CASE WHEN created_before IS NOT NULL THEN ' AND th.created_at < $7' END,
        CASE WHEN updated_after IS NOT NULL THEN ' AND th.updated_at > $8' END,
        CASE WHEN updated_before IS NOT NULL THEN ' AND th.updated_at < $9' END,
        CASE WHEN from_moment IS NOT NULL THEN
            format(' AND (%s) %s ($10, $11)', place, CASE WHEN downwards THEN '<' ELSE '>' END) END,
        CASE WHEN until IS NOT NULL THEN format(' AND %s < $12', moment) END,
        CASE downwards WHEN true THEN format(' ORDER BY %s DESC', replace(place, ',', ' DESC,'))
            WHEN false THEN ' ORDER BY ' || place END,
        ' LIMIT $13'
    ) USING project, of_user, replace(replace(replace(name_begins, '\', '\\'), '%', '\%'), '_', '\_') || '%', pairs,
        sealed_pairs, created_after, created_before, updated_after, updated_before, from_moment, from_id, until, most;
END
$function$;

-- Return the conditions that filters set on a thread `th` of the project $1. $2: the filters. Only those given are
-- conditions, so that each combination gets its own plan. Each condition begins with AND. `name_of_each`, if it is set: the
-- name of each thread is compared, and no index is used.
CREATE FUNCTION thread_conditions_v1(filters jsonb) RETURNS text LANGUAGE sql IMMUTABLE RETURN concat(
    CASE WHEN filters ? 'user' THEN $$ AND th.user_id = $2->>'user'$$ END,
    CASE WHEN filters ? 'user_begins' THEN $$ AND th.user_id LIKE $2->>'user_begins'$$ END,
    CASE WHEN filters ? 'name_begins' THEN
        $$ AND th.name LIKE $2->>'name_begins'$$ END,
    CASE WHEN filters ? 'name_begins' AND NOT filters ? 'name_of_each' THEN
        $$ AND (th.bucket, th.id) IN (SELECT bucket_of(thread_id), thread_id
            FROM thread_names WHERE project_id = $1 AND name LIKE $2->>'name_begins')$$ END,
    -- Threads have the pairs as they are, or sealed.
    CASE WHEN filters ? 'pairs' THEN $$ AND th.metadata <> '{}' AND (th.metadata @> ($2->'pairs')$$ END,
    CASE WHEN filters ? 'sealed_pairs' THEN $$ OR th.metadata @> ($2->'sealed_pairs')$$ END,
    CASE WHEN filters ? 'pairs' THEN ')' END,
    CASE filters->>'archived'
        WHEN 'true' THEN ' AND th.archived_at IS NOT NULL' WHEN 'false' THEN ' AND th.archived_at IS NULL' END,
    CASE WHEN filters ? 'busy' THEN concat(
        CASE filters->>'busy' WHEN 'true' THEN ' AND' ELSE ' AND NOT' END,
        ' EXISTS (SELECT FROM turns t WHERE t.project_id = $1 AND t.bucket = th.bucket AND t.thread_id = th.id',
        $$ AND t.status = 'in_progress')$$) END,
    CASE WHEN filters ? 'created_after' THEN $$ AND th.created_at > ($2->>'created_after')::timestamptz$$ END,
    CASE WHEN filters ? 'created_before' THEN $$ AND th.created_at < ($2->>'created_before')::timestamptz$$ END,
    CASE WHEN filters ? 'updated_after' THEN $$ AND th.updated_at > ($2->>'updated_after')::timestamptz$$ END,
    CASE WHEN filters ? 'updated_before' THEN $$ AND th.updated_at < ($2->>'updated_before')::timestamptz$$ END
);

-- Return the condition that filters set on the last turn of a thread `th`, or NULL. By its order and limit, the turn
-- is looked up in the index on its number, though a new project looks as if its turns were few.
CREATE FUNCTION last_turn_condition_v1(filters jsonb) RETURNS text LANGUAGE sql IMMUTABLE RETURN
    CASE WHEN filters ?| ARRAY['last_turn', 'model'] THEN concat(
        'EXISTS (SELECT FROM (SELECT status, model FROM turns WHERE project_id = $1 AND bucket = th.bucket',
        ' AND thread_id = th.id AND seq >= th.last_seq ORDER BY seq LIMIT 1) l WHERE true',
        CASE WHEN filters ? 'last_turn' THEN $$ AND l.status = $2->>'last_turn'$$ END,
        CASE WHEN filters ? 'model' THEN $$ AND l.model = $2->>'model'$$ END,
        ')'
    ) END;

-- Return the conditions that filters set on the time of the last turn `a` of a thread: ` AND …`, or nothing.
CREATE FUNCTION activity_conditions_v1(filters jsonb) RETURNS text LANGUAGE sql IMMUTABLE RETURN concat(
    CASE WHEN filters ? 'active_after' THEN $$ AND a.active_at > ($2->>'active_after')::timestamptz$$ END,
    CASE WHEN filters ? 'active_before' THEN $$ AND a.active_at < ($2->>'active_before')::timestamptz$$ END
);

-- Return all conditions that filters set on a thread `th` of the project $1 that something else has found.
CREATE FUNCTION all_thread_conditions_v1(filters jsonb) RETURNS text LANGUAGE sql IMMUTABLE RETURN concat(
    thread_conditions_v1(filters || '{"name_of_each": true}'),
    CASE WHEN activity_conditions_v1(filters) <> '' THEN concat(
        ' AND EXISTS (SELECT FROM thread_activity a',
        ' WHERE a.project_id = $1 AND a.bucket = th.bucket AND a.thread_id = th.id',
        activity_conditions_v1(filters), ' OFFSET 0)') END,
    ' AND ' || last_turn_condition_v1(filters)
);

-- Return candidates of a search: the newest messages that have the lexemes, not yet ranked. Filters are checked for a
-- limited number of the newest.
CREATE FUNCTION found_messages_v2(
    project uuid, filters jsonb, asked tsquery, here_before timestamptz, since timestamptz, until timestamptz,
    thread uuid,
    older_than uuid,  -- the lowest turn that has been looked at
    most integer,
    looked_at integer
) RETURNS TABLE (bucket smallint, id uuid, "position" integer, size integer)
-- A bitmap that does not fit into work_mem is lossy, and each text would have to be parsed again.
LANGUAGE plpgsql STABLE SET work_mem = '256MB' AS $function$
DECLARE
    conditions text := concat(
        CASE WHEN here_before IS NOT NULL THEN ' AND t.arrived_at < $4' END,
        CASE WHEN since IS NOT NULL THEN ' AND t.created_at >= $5' END,
        CASE WHEN until IS NOT NULL THEN ' AND t.created_at < $6' END,
        CASE WHEN thread IS NOT NULL THEN ' AND th.id = $7' END,
        all_thread_conditions_v1(filters)
    );
    newest text := concat(
        'SELECT i.bucket, i.turn_id, i.position::integer AS position, pg_column_size(i.data) AS size FROM items i ',
        $$WHERE i.project_id = $1 AND i.type = 'message' AND message_lexemes_v1(i.project_id, i.turn_id, i.data) @@ $3$$,
        CASE WHEN older_than IS NOT NULL THEN ' AND i.turn_id < $8' END,
        ' ORDER BY i.turn_id DESC, i.position DESC LIMIT '
    );
BEGIN
    RETURN QUERY EXECUTE CASE WHEN conditions = '' THEN newest || '$9' ELSE concat(
        'SELECT i.bucket, i.turn_id, i.position, i.size FROM (', newest, '$10) i',
        ' CROSS JOIN LATERAL (SELECT thread_id, created_at, arrived_at FROM turns',
        ' WHERE project_id = $1 AND bucket = i.bucket AND id = i.turn_id OFFSET 0) t',
        ' CROSS JOIN LATERAL (SELECT th.* FROM threads th',
        ' WHERE th.project_id = $1 AND th.bucket = i.bucket AND th.id = t.thread_id OFFSET 0) th',
        ' WHERE true', conditions, ' ORDER BY i.turn_id DESC, i.position DESC LIMIT $9'
    ) END USING project, filters, asked, here_before, since, until, thread, older_than, most, looked_at;
END
$function$;

-- Return candidates of a search among the titles, of the newest threads first. A filter on the last turn is checked for a
-- limited number of them.
CREATE FUNCTION found_titles_v2(
    project uuid, filters jsonb, asked tsquery, here_before timestamptz, since timestamptz, until timestamptz,
    thread uuid, most integer, looked_at integer
) RETURNS TABLE (id uuid, title text) LANGUAGE plpgsql STABLE AS $function$
DECLARE
    last_turn text := last_turn_condition_v1(filters);
    newest text := concat(
        'SELECT th.bucket, th.id, th.last_seq, th.title FROM threads th WHERE th.project_id = $1 AND th.title IS NOT NULL',
        ' AND title_lexemes_v1(th.project_id, th.title) @@ $3',
        CASE WHEN here_before IS NOT NULL THEN ' AND th.arrived_at < $4' END,
        CASE WHEN since IS NOT NULL THEN ' AND th.created_at >= $5' END,
        CASE WHEN until IS NOT NULL THEN ' AND th.created_at < $6' END,
        CASE WHEN thread IS NOT NULL THEN ' AND th.id = $7' END,
        all_thread_conditions_v1(filters - ARRAY['last_turn', 'model']),
        ' ORDER BY th.id DESC LIMIT ', CASE WHEN last_turn IS NULL THEN '$8' ELSE '$9' END
    );
BEGIN
    RETURN QUERY EXECUTE concat(
        'SELECT th.id, th.title FROM (', newest, ') th', ' WHERE ' || last_turn, ' ORDER BY th.id DESC LIMIT $8'
    ) USING project, filters, asked, here_before, since, until, thread, most, looked_at;
END
$function$;

-- Return a page of threads. A filter on the last turn, which no index answers, is checked for a limited number of
-- threads: where that ends the page early, its last row is the last thread that was looked at, and does not match.
CREATE FUNCTION listed_threads_v2(
    project uuid, filters jsonb,
    by_activity boolean,              -- ordered by when it was last spoken in, and not by when it came to be here
    downwards boolean,                -- NULL: in no order
    from_moment timestamptz, from_id uuid,  -- the place in that order that the list begins behind
    until timestamptz,                -- where it ends
    most integer,
    looked_at integer                 -- the most threads whose last turns are looked at
) RETURNS TABLE (bucket smallint, id uuid, matches boolean) LANGUAGE plpgsql STABLE ROWS 20 AS $function$
DECLARE
    place text := CASE WHEN by_activity THEN 'a.active_at, a.thread_id' ELSE 'th.arrived_at, th.id' END;
    moment text := split_part(place, ',', 1);
    last_turn text := last_turn_condition_v1(filters);
    way text := CASE downwards WHEN true THEN ' DESC' ELSE '' END;
    with_activity boolean := by_activity OR activity_conditions_v1(filters) <> '';
    little integer := CASE WHEN last_turn IS NULL THEN 5000 ELSE looked_at END;  -- Rows that are read at once, and sorted.
    of_threads text;
    of_activity text := 'FROM thread_activity a WHERE a.project_id = $1' || activity_conditions_v1(filters);
    narrow text;  -- What the filters find without the order of the list.
    threads_in_order text;
    found integer;
BEGIN
    -- Where that is little, the list begins with it, else with its order. The other table is looked up by its key for each
    -- row. Statistics would tell what is little, but not of a new project.
    IF filters ? 'name_begins' THEN
        SELECT count(*) INTO found FROM (
            SELECT FROM thread_names n WHERE n.project_id = project AND n.name LIKE filters->>'name_begins' LIMIT little + 1
        ) s;
        filters := CASE WHEN found > little THEN filters || '{"name_of_each": true}' ELSE filters END;
    END IF;
    of_threads := 'FROM threads th WHERE th.project_id = $1' || thread_conditions_v1(filters);
    IF by_activity AND thread_conditions_v1(filters) <> '' THEN
        narrow := of_threads;
    ELSIF with_activity AND NOT by_activity THEN
        narrow := of_activity;
    END IF;
    found := NULL;
    IF narrow IS NOT NULL THEN
        EXECUTE format('SELECT count(*) FROM (SELECT %s LIMIT %s) s', narrow, little + 1) INTO found
            USING project, filters;
    END IF;
    threads_in_order := concat(
        'SELECT th.bucket, th.id, th.last_seq, ', moment, ' AS moment ',
        CASE WHEN NOT with_activity THEN of_threads
            WHEN by_activity = coalesce(found <= little, false) THEN concat(
                'FROM threads th CROSS JOIN LATERAL (SELECT a.thread_id, a.active_at ', of_activity,
                ' AND a.bucket = th.bucket AND a.thread_id = th.id OFFSET 0) a WHERE th.project_id = $1',
                thread_conditions_v1(filters))
            ELSE concat(
                'FROM thread_activity a CROSS JOIN LATERAL (SELECT th.bucket, th.id, th.last_seq, th.arrived_at ', of_threads,
                ' AND th.bucket = a.bucket AND th.id = a.thread_id OFFSET 0) th WHERE a.project_id = $1',
                activity_conditions_v1(filters)) END,
        CASE WHEN from_moment IS NOT NULL THEN
            format(' AND (%s) %s ($3, $4)', place, CASE WHEN downwards THEN '<' ELSE '>' END) END,
        CASE WHEN until IS NOT NULL THEN format(' AND %s < $5', moment) END,
        CASE WHEN downwards IS NOT NULL THEN format(' ORDER BY %s%s', replace(place, ',', way || ','), way) END
    );
    IF last_turn IS NULL THEN
        RETURN QUERY EXECUTE format('SELECT s.bucket, s.id, true FROM (%s LIMIT $6) s', threads_in_order)
            USING project, filters, from_moment, from_id, until, most;
        RETURN;
    END IF;
    RETURN QUERY EXECUTE concat(
        'SELECT th.bucket, th.id, true FROM (', threads_in_order, ' LIMIT $7) th WHERE ', last_turn,
        CASE WHEN downwards IS NOT NULL THEN format(' ORDER BY th.moment%s, th.id%s', way, way) END, ' LIMIT $6'
    ) USING project, filters, from_moment, from_id, until, most, looked_at;
    GET DIAGNOSTICS found = ROW_COUNT;
    IF found < most THEN
        RETURN QUERY EXECUTE format('SELECT s.bucket, s.id, false FROM (%s OFFSET $6 - 1 LIMIT 1) s', threads_in_order)
            USING project, filters, from_moment, from_id, until, looked_at;
    END IF;
END
$function$;

-- =====================================================================================================================
-- Data
-- =====================================================================================================================
-- 256 bits of gen_random_uuid(), which uses the strong random source of the server.
INSERT INTO cache_keys (key)
    SELECT sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
