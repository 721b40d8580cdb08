"""
A headless Chromium for tests, driven by the DevTools protocol over the WebSocket library that we use anyway.

Promise: the browser has a profile of its own and ends with its test. Every request that a page makes, every exception
and every complaint of the browser (a refused style or script, for example) is kept in a list, so that a test can say
that there was none.

Not here: what is tested.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--mute-audio"),
    *("--disable-extensions", "--hide-scrollbars", "--force-color-profile=srgb", "--remote-debugging-port=0"),
)
START_DEADLINE_S = 20.0
CALL_DEADLINE_S = 20.0

# Waits inside the page, because only there the moment at which something is shown can be seen.
WAIT_FOR = """new Promise((resolve, reject) => {
  const deadline = performance.now() + %d;
  const look = () => {
    let found;
    try { found = (%s); } catch (trouble) { found = null; }
    if (found) resolve(found === true || typeof found === 'object' ? true : found);
    else if (performance.now() > deadline) reject(new Error('not within the deadline'));
    else setTimeout(look, 20);
  };
  look();
})"""


class PageTrouble(AssertionError):
    """The page did not do what it should; says what it showed instead."""


def find_chromium() -> str | None:
    return next((path for path in map(shutil.which, PROGRAMS) if path), None)


class Page:
    """One tab. `requests`: all URLs that it asked for; `complaints`: exceptions, errors, refusals by its policy."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._listeners: dict[str, list[Callable[[dict[str, Any]], None]]] = {}
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._reader = asyncio.create_task(self._read())

    async def start(self) -> None:
        self.listen("Network.requestWillBeSent", lambda p: self.requests.append(p["request"]["url"]))
        self.listen(
            "Runtime.exceptionThrown", lambda p: self.complaints.append(json.dumps(p["exceptionDetails"])[:600])
        )
        self.listen(
            "Log.entryAdded",
            lambda p: (
                self.complaints.append(f"{p['entry']['source']}: {p['entry']['text']} {p['entry'].get('url', '')}")
                if p["entry"]["level"] == "error"
                else None
            ),
        )
        for domain in ("Page", "Network", "Runtime", "Log"):
            await self.call(f"{domain}.enable")

    def listen(self, event: str, listener: Callable[[dict[str, Any]], None]) -> None:
        self._listeners.setdefault(event, []).append(listener)

    def forget(self, *events: str) -> None:
        for event in events:
            self._listeners.pop(event, None)

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        async with asyncio.timeout(CALL_DEADLINE_S + params.get("timeout", 0) / 1000):
            return await answer

    async def go_to(self, url: str) -> None:
        await self.call("Page.navigate", url=url)

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression, awaited if it is a promise."""
        found = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            raise PageTrouble(details.get("exception", {}).get("description", details["text"]))
        return found["result"].get("value")

    async def wait_for(self, condition: str, deadline_s: float = 10.0) -> Any:
        """Until a condition in the page is true; its value, if it is a text or a number."""
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        while True:
            try:
                return await self.evaluate(WAIT_FOR % (1000 * max(0.0, end - loop.time()), condition))
            except PageTrouble as trouble:
                # A navigation takes the page with everything that waits in it away.
                if loop.time() < end and "deadline" not in str(trouble):
                    continue
                shown = await self.evaluate("location.href + '\\n' + document.body?.innerText")
                raise PageTrouble(f"{condition}: {trouble}\nshown: {shown}\n{self.complaints}") from None

    async def wait_for_text(self, text: str, deadline_s: float = 10.0, inside: str = "body") -> None:
        await self.wait_for(
            f"document.querySelector({json.dumps(inside)}).innerText.includes({json.dumps(text)})", deadline_s
        )

    async def click(self, selector: str, text: str = "") -> None:
        """The first visible element that fits, once there is one that can be clicked."""
        await self.wait_for(
            f"""[...document.querySelectorAll({json.dumps(selector)})].some((one) => {{
              if (one.disabled || !one.getClientRects().length) return false;
              if (!one.innerText.includes({json.dumps(text)})) return false;
              one.click();
              return true;
            }})"""
        )

    async def fill(self, selector: str, value: str) -> None:
        """As if typed: the value is set the way a browser does it, and the page is told."""
        await self.wait_for(
            f"""(() => {{
              const one = document.querySelector({json.dumps(selector)});
              if (!one) return false;
              Object.getOwnPropertyDescriptor(Object.getPrototypeOf(one), 'value').set.call(one, {json.dumps(value)});
              one.dispatchEvent(new Event('input', {{bubbles: true}}));
              one.dispatchEvent(new Event('change', {{bubbles: true}}));
              return true;
            }})()"""
        )

    async def press(self, key: str, text: str = "", **more: Any) -> None:
        """A key of the keyboard, wherever the focus is."""
        named = {"key": key, "code": more.pop("code", key), **more}
        codes = {"Enter": 13, "ArrowDown": 40, "Escape": 27}
        if key in codes:
            named["windowsVirtualKeyCode"] = codes[key]
        await self.call(
            "Input.dispatchKeyEvent", type="keyDown", text=text or ("\r" if key == "Enter" else ""), **named
        )
        await self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    async def type(self, text: str) -> None:
        for letter in text:
            await self.call("Input.dispatchKeyEvent", type="char", text=letter)

    async def resize(self, width: int, height: int, *, is_phone: bool = False, ratio: float = 1) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=ratio, mobile=is_phone
        )

    async def prefer(self, **features: str) -> None:
        """prefer(prefers_color_scheme="dark")"""
        chosen = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        await self.call("Emulation.setEmulatedMedia", features=chosen)

    async def screenshot(self, path: Path, *, whole: bool = False) -> None:
        more: dict[str, Any] = {}
        if whole:
            size = (await self.call("Page.getLayoutMetrics"))["cssContentSize"]
            more = {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **more)
        path.write_bytes(base64.b64decode(shot["data"]))  # noqa: ASYNC240 -- a test has nothing else to do

    async def close(self) -> None:
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader
        await self._socket.close()

    async def _read(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            if "id" in message:
                answer = self._answers.pop(message["id"])
                if not answer.done():
                    if "error" in message:
                        answer.set_exception(PageTrouble(message["error"]["message"]))
                    else:
                        answer.set_result(message["result"])
            else:
                for listener in self._listeners.get(message["method"], ()):
                    listener(message["params"])


@contextlib.asynccontextmanager
async def open_page(*flags: str) -> AsyncIterator[Page]:
    """A browser with one empty tab. Raises FileNotFoundError where there is no Chromium."""
    program = find_chromium()
    if program is None:
        raise FileNotFoundError("chromium")
    with tempfile.TemporaryDirectory(prefix="wh-browser-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(  # noqa: ASYNC220 -- starting it takes no time
            [program, *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = await _find_port(Path(profile) / "DevToolsActivePort", process)
            async with connect(await _find_page(port), max_size=None, compression=None) as socket:
                page = Page(socket)
                await page.start()
                try:
                    yield page
                finally:
                    await page.close()
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)


async def _find_port(file: Path, process: subprocess.Popen[bytes]) -> int:
    async with asyncio.timeout(START_DEADLINE_S):
        while process.poll() is None:
            lines = file.read_text().splitlines() if file.exists() else []  # noqa: ASYNC240
            if len(lines) >= 2:
                return int(lines[0])
            await asyncio.sleep(0.02)  # the browser tells nobody when it has written its file
    raise PageTrouble(f"chromium ended with {process.returncode}")


async def _find_page(port: int) -> str:
    """The address of the tab's socket. The browser keeps its connections open, so the answer says where it ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /json/list HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    async with asyncio.timeout(CALL_DEADLINE_S):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        body = await reader.readexactly(int(re.findall(r"content-length: *(\d+)", head)[0]))
    writer.close()
    return next(str(one["webSocketDebuggerUrl"]) for one in json.loads(body) if one["type"] == "page")
