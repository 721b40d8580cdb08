"""The client of docs/quickstart.md, run as it stands there, in a process of its own, on a gateway with real servers."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

from tests.integration.gateway_rig import new_user, run_flusher, run_rig, token

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- this block is run by tests/meta/test_quickstart\.py -->\n```python\n(.*?)```", re.DOTALL)


async def test_the_client_of_the_quickstart_works_as_printed(redis_url: str, database_url: str, tmp_path: Path) -> None:
    found = BLOCK.search((ROOT / "docs" / "quickstart.md").read_text())
    assert found
    (tmp_path / "client.py").write_text(found[1])
    user_id = new_user()
    async with run_flusher(redis_url, database_url), run_rig(redis_url, database_url) as rig:
        for run in (1, 2):  # the second time it goes on in the same journal
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "client.py", rig.url, user_id, token(user_id)),
                cwd=tmp_path,
                env={"PYTHONPATH": str(ROOT)},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            async with asyncio.timeout(30):
                output, _ = await process.communicate()
            text = output.decode()
            assert process.returncode == 0, text
            assert f"accepted up to {2 * run} {{'items': ['brass_key']}}" in text
            assert f"saved up to {2 * run}" in text
            assert "everything is saved: True" in text
