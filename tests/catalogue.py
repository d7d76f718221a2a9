"""A snapshot of everything that a database's catalogue says about the schema, to compare two databases."""

import asyncio
import re
from typing import Any

import asyncpg

_QUERIES = {
    "table": """
        SELECT c.oid::regclass::text, concat_ws(' ', c.relkind, c.relpersistence, 'rls', c.relrowsecurity,
            c.relforcerowsecurity, 'options', (SELECT array_agg(o ORDER BY o) FROM unnest(c.reloptions) o))
        FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S')""",
    # Columns in their order, whatever gaps dropped columns have left.
    "column": """
        SELECT c.oid::regclass || '.' || a.attname, concat_ws(' ',
            (SELECT count(*) FROM pg_attribute b WHERE b.attrelid = a.attrelid AND b.attnum > 0 AND NOT b.attisdropped
                AND b.attnum <= a.attnum),
            format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attidentity,
            a.attgenerated, a.attcompression, a.attstorage, a.attstattarget, a.attoptions, a.attcollation::regcollation)
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
            LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND a.attnum > 0
            AND NOT a.attisdropped""",
    "constraint": """
        SELECT concat_ws('.', conrelid::regclass, contypid::regtype, conname),
            concat_ws(' ', pg_get_constraintdef(oid), convalidated, condeferrable)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace""",
    "index": """
        SELECT c.relname, concat_ws(' ', pg_get_indexdef(c.oid), i.indisvalid, i.indisready, i.indisprimary,
            i.indisunique, (SELECT array_agg(a.attstattarget ORDER BY a.attnum) FROM pg_attribute a
            WHERE a.attrelid = c.oid))
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = 'public'::regnamespace""",
    "function": """
        SELECT oid::regprocedure::text, concat_ws(' ', pg_get_functiondef(oid), 'rights', proacl)
        FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prokind <> 'a'
            AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = pg_proc.oid AND d.deptype = 'e')""",
    "trigger": """
        SELECT tgrelid::regclass || '.' || tgname, concat_ws(' ', pg_get_triggerdef(t.oid), tgenabled)
        FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        WHERE NOT tgisinternal AND c.relnamespace = 'public'::regnamespace""",
    "policy": """
        SELECT tablename || '.' || policyname, concat_ws(' ', permissive, roles, cmd, qual, with_check)
        FROM pg_policies WHERE schemaname = 'public'""",
    "rights": """
        SELECT c.oid::regclass::text, (SELECT string_agg(concat_ws(' ', r.grantee::regrole, r.privilege_type,
            r.is_grantable), ', ' ORDER BY r.grantee::regrole::text, r.privilege_type) FROM aclexplode(c.relacl) r)
        FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S')""",
    "default rights": "SELECT concat_ws('.', defaclrole::regrole, defaclobjtype), defaclacl::text FROM pg_default_acl",
    "domain": """
        SELECT typname, concat_ws(' ', format_type(typbasetype, typtypmod), typnotnull, typdefault)
        FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype IN ('d', 'e', 'r')""",
    "enum": "SELECT enumtypid::regtype || '.' || enumlabel, enumsortorder::text FROM pg_enum",
    "collation": """
        SELECT collname, concat_ws(' ', collprovider, collisdeterministic, collencoding, to_jsonb(c)->>'collcollate',
            to_jsonb(c)->>'colllocale', to_jsonb(c)->>'colliculocale')
        FROM pg_collation c WHERE collnamespace = 'public'::regnamespace""",
    "sequence": """
        SELECT sequencename, concat_ws(' ', data_type, start_value, min_value, max_value, increment_by, cycle)
        FROM pg_sequences WHERE schemaname = 'public'""",
    "extension": "SELECT extname, '' FROM pg_extension",
    "schema": "SELECT nspname, nspacl::text FROM pg_namespace WHERE nspname !~ '^pg_'",
    "role settings": """
        SELECT coalesce(setrole::regrole::text, 'all'), setconfig::text FROM pg_db_role_setting
        WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())""",
}


def catalogue(url: str) -> dict[str, str]:
    """Return the definition of each object in the database, by its kind and name. White space is normalised."""

    async def read() -> dict[str, str]:
        connection = await asyncpg.connect(url)
        try:
            rows: list[tuple[str, Any]] = []
            for kind, query in _QUERIES.items():
                rows += [(f"{kind} {name}", definition) for name, definition in await connection.fetch(query)]
        finally:
            await connection.close()
        assert len(rows) == len(dict(rows)), "two objects have the same name"
        return {name: re.sub(r"\s+", " ", definition or "") for name, definition in rows}

    return asyncio.run(read())


def differences(one: dict[str, str], other: dict[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Return what differs: the definition in each of the two databases, None where it is missing."""
    names = sorted(one.keys() | other.keys())
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}
