"""A run that is killed leaves nothing behind, not even what it had frozen."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from tests.faults.undertaker import list_processes_of
from tests.waiting import wait_until

FREEZE_AND_WAIT = """
import asyncio
from tests.faults.rig import RigPlan, run_rig

async def main():
    async with run_rig(RigPlan(gateways=1, flushers=1)) as rig:
        for name in ("gateway-1", "valkey", "postgres"):
            rig.freeze(name)
        print(rig.folder, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_killed_run_leaves_no_process_and_no_file() -> None:
    run = await asyncio.create_subprocess_exec(sys.executable, "-c", FREEZE_AND_WAIT, stdout=asyncio.subprocess.PIPE)
    assert run.stdout is not None
    async with asyncio.timeout(50):
        folder = Path((await run.stdout.readline()).decode().strip())
    assert len(list_processes_of(str(folder))) > 4
    run.send_signal(signal.SIGKILL)
    await run.wait()

    async def is_clean() -> bool:
        return not list_processes_of(str(folder)) and not await asyncio.to_thread(folder.exists)

    await wait_until("everything of the run is gone", is_clean, 20)
