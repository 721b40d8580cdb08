"""
The token for the command line on the machine of a `dev`: `<data-dir>/ops_token`, for its owner alone.

Whoever may read that folder may read the key of all players' tokens beside it, so it gives nobody anything new.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from gateway.telemetry.logs import get_logger
from persistence.errors import PersistenceError
from persistence.operators import Operators, Role

FILE_NAME = "ops_token"
OPERATOR = "local"
LABEL = "the command line on this machine"

log = get_logger("ops")


async def keep_local_token(operators: Operators, data_dir: Path) -> None:
    """Write the file, unless the one that is there still opens the door. Failing costs a command line its comfort."""
    path = data_dir / FILE_NAME
    try:
        with suppress(OSError):
            if await operators.find_by_token(path.read_text().strip()) is not None:
                return
        await operators.add(OPERATOR, Role.ADMIN, by="dev")
        for token in await operators.list_tokens(OPERATOR):
            if token.label == LABEL and token.revoked_at is None:
                await operators.revoke_token(token.id)
        added = await operators.add_token(OPERATOR, LABEL)
        if added is None:
            return  # somebody has disabled it on purpose
        aside = path.with_name(f".{FILE_NAME}.{os.getpid()}")
        with suppress(OSError):
            aside.unlink()
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(added[1] + "\n")
        aside.replace(path)
    except (PersistenceError, OSError) as error:
        log.warning("no_local_token", error=str(error))
