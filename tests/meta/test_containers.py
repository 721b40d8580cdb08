"""
compose.yaml and Containerfile say what they should, as far as that can be known without a container engine.

What this cannot show is that the images build and run; see the notes at the top of both files.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]

# What the compose specification knows, as far as it is used here. A key that is not listed is a typing error.
TOP = {"name", "services", "volumes"}
SERVICE = {
    *("image", "build", "command", "environment", "ports", "volumes", "depends_on", "healthcheck", "init", "restart"),
    *("stop_grace_period", "stop_signal", "cap_drop", "security_opt"),
}
BUILD = {"context", "dockerfile"}
HEALTHCHECK = {"test", "interval", "timeout", "retries", "start_period"}
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}
RESTARTS = {"no", "always", "unless-stopped", "on-failure"}
DURATION = re.compile(r"(\d+(us|ms|s|m|h))+")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


def test_keys_and_values_are_those_of_the_compose_specification(
    compose: dict[str, Any], services: dict[str, dict[str, Any]]
) -> None:
    assert {key for key in compose if not key.startswith("x-")} <= TOP
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]*", compose["name"])
    for name, service in services.items():
        assert set(service) <= SERVICE, name
        assert isinstance(service["image"], str)
        assert set(service.get("build", {})) <= BUILD
        assert service["restart"] in RESTARTS, name
        assert all(isinstance(value, str) for value in service.get("environment", {}).values()), name
        assert all(isinstance(part, str) for part in service.get("command", [])), f"{name}: quote it"
        assert set(service.get("healthcheck", {})) <= HEALTHCHECK
        for key in ("interval", "timeout", "start_period"):
            assert DURATION.fullmatch(service.get("healthcheck", {}).get(key, "1s")), name
        assert DURATION.fullmatch(service.get("stop_grace_period", "1s")), name
        for other, how in service.get("depends_on", {}).items():
            assert other in services and set(how) == {"condition"} and how["condition"] in CONDITIONS
            assert how["condition"] != "service_healthy" or "healthcheck" in services[other]
        for mount in service.get("volumes", []):
            assert mount.split(":")[0] in compose["volumes"], f"{name}: data belongs in a named volume"


def test_nothing_is_open_to_other_machines(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in service.get("ports", []))


def test_images_are_pinned_and_data_is_kept(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        assert re.search(r":\d+(\.\d+)*(-[a-z]+)?$", service["image"]), service["image"]
    # From 18 on, a volume at …/data stays empty and the data goes with the container.
    assert services["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]
    command = " ".join(services["valkey"]["command"])
    for option in ("--appendonly yes", "--appendfsync everysec", "--maxmemory-policy noeviction"):
        assert option in command


def test_players_have_time_to_leave(services: dict[str, dict[str, Any]]) -> None:
    for name in ("gateway", "flusher"):
        assert services[name]["stop_grace_period"] == "30s"
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


def test_settings_are_real_ones(services: dict[str, dict[str, Any]]) -> None:
    from gateway.app.settings import Settings

    known = {f"WAYHOLD_{name.upper()}" for name in Settings.__dataclass_fields__}
    for service in services.values():
        given = {name for name in service.get("environment", {}) if name.startswith("WAYHOLD_")}
        assert given <= known


def test_the_image_runs_as_nobody_special_and_holds_what_it_copies() -> None:
    lines = (ROOT / "Containerfile").read_text().replace("\\\n", " ").splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    assert words[0][0] == "FROM"
    known = {"FROM", "WORKDIR", "RUN", "COPY", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert {line[0] for line in words} <= known
    users = [line[1] for line in words if line[0] == "USER"]
    assert users == ["10001:10001"]
    # What comes after USER must not need root.
    after = words[words.index(["USER", users[0]]) :]
    assert "RUN" not in {line[0] for line in after}
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {part for line in words if line[0] == "COPY" and not line[1].startswith("--") for part in line[1:-1]}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
