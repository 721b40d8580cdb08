"""
Append-only by grants: gateways and flushers work as a role that may add events and read them, and nothing else.

Promise: where the role is in force, no statement of theirs changes, removes or truncates what happened, be it ever so
wrong. Erasing still works, because a player's events go with the player by cascade, which the owner's rights carry out.
Where a login may not become the role everything works as before, and whoever asks (`find_append_only_gap`) is told why.

Not here: who owns the tables. That is whoever migrates; only they make, change and drop them.
"""

from __future__ import annotations

from typing import Any

import asyncpg

APP_ROLE = "wayhold_app"

_ROLE_LOCK = 0x7761_7968_6F6C_65

_GRANT = """
DO $$
DECLARE
    name text;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO wayhold_app', current_schema());
    FOR name IN
        SELECT c.relname FROM pg_class c
        WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
          AND c.relname <> 'player_progress_events' AND pg_has_role(c.relowner, 'USAGE')
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO wayhold_app', name);
    END LOOP;
    -- Nobody but the owner says which migrations were applied, or what a number stands for.
    REVOKE INSERT, UPDATE, DELETE ON schema_migrations, installation FROM wayhold_app;
    REVOKE UPDATE, DELETE ON contents FROM wayhold_app;
    -- Who did what to whom stays; an erase takes it along by cascade.
    REVOKE DELETE ON liveops_actions FROM wayhold_app;
    REVOKE UPDATE, DELETE ON operator_log FROM wayhold_app;
    -- Partitions are reached through their parent, so nothing is granted on them.
    REVOKE ALL ON player_progress_events FROM wayhold_app;
    GRANT SELECT, INSERT ON player_progress_events TO wayhold_app;
    -- What acts as the owner, and is nobody else's: making months of events, removing what became too old.
    FOR name IN
        SELECT p.oid::regprocedure FROM pg_proc p
        WHERE p.pronamespace = current_schema()::regnamespace AND p.prosecdef AND pg_has_role(p.proowner, 'USAGE')
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO wayhold_app', name);
    END LOOP;
END
$$
"""

_TAKE = """
SELECT set_config('role', r.rolname, false)
FROM pg_roles r
WHERE r.rolname = $1 AND r.rolname <> current_user AND pg_has_role(r.oid, 'MEMBER')
  AND has_table_privilege(r.oid, to_regclass('player_progress_events'), 'INSERT')
"""

_LOOK = """
SELECT current_user AS login,
       r.oid IS NOT NULL AS is_there,
       r.oid IS NOT NULL AND pg_has_role(r.oid, 'MEMBER') AS is_ours,
       r.oid IS NOT NULL AND has_table_privilege(r.oid, e.id, 'SELECT')
           AND has_table_privilege(r.oid, e.id, 'INSERT') AS may_append,
       r.oid IS NOT NULL AND has_table_privilege(r.oid, e.id, 'UPDATE, DELETE, TRUNCATE') AS may_change,
       has_table_privilege(e.id, 'UPDATE, DELETE, TRUNCATE') AS login_may_change
FROM (SELECT to_regclass('player_progress_events')::oid AS id) AS e
LEFT JOIN pg_roles r ON r.rolname = $1
WHERE e.id IS NOT NULL
"""


async def grant_app_role(connection: Any) -> str:
    """
    Make the role and grant it what it needs, as the owner of the tables; what is granted already stays. Returns why
    that could not be done, empty when it was.
    """
    try:
        async with connection.transaction():
            # Roles belong to the whole server: another database may be migrated at this moment.
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _ROLE_LOCK)
            if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", APP_ROLE):
                await connection.execute(f"CREATE ROLE {APP_ROLE} NOLOGIN")
            if not await connection.fetchval("SELECT pg_has_role($1, 'MEMBER')", APP_ROLE):
                await connection.execute(f"GRANT {APP_ROLE} TO CURRENT_USER")
            await connection.execute(_GRANT)
    except (asyncpg.InsufficientPrivilegeError, asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError) as error:
        return str(error)
    return ""


async def take_app_role(connection: Any) -> None:
    """Go on as the role, if there is one and this login may; it holds for the life of the connection."""
    try:
        await connection.fetchval(_TAKE, APP_ROLE)
    except asyncpg.InsufficientPrivilegeError:
        pass  # a member that may not become it: `find_append_only_gap` says so


async def find_append_only_gap(connection: Any) -> str:
    """Why events could be changed by gateways and flushers that connect as this login; empty when they could not."""
    found = await connection.fetchrow(_LOOK, APP_ROLE)
    if found is None or not found["login_may_change"]:
        return ""
    if not found["is_there"]:
        return f"the role {APP_ROLE} does not exist, and {found['login']} may change events"
    if not found["is_ours"]:
        return f"{found['login']} may not become {APP_ROLE}, and may change events"
    if not found["may_append"]:
        return f"{APP_ROLE} has not been granted what it needs, so {found['login']} works under its own rights"
    if found["may_change"]:
        return f"{APP_ROLE} was granted more than reading and adding events"
    return ""
