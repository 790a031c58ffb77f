"""What this installation of qkv requires, which of it is missing or too old, and the command that mends it.

Needs neither torch nor anything else that may be missing.
"""

import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from packaging.requirements import Requirement
from packaging.version import InvalidVersion

NAME = "qkv"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


class Unmet(NamedTuple):
    """A requirement ("numpy>=1.26") that is not met, and the version that is installed; "" for none."""

    requirement: str
    installed: str


def is_installed() -> bool:
    """Whether qkv is installed, so that its requirements are known; a checkout on the path is not."""
    return bool(_metadata())


def extras() -> list[str]:
    """The names of the optional extras."""
    return [name for about in _metadata() for name in about.get_all("Provides-Extra", [])]


def required(extra: str = "") -> list[Requirement]:
    """What qkv itself requires here, or what an extra adds; extras that an extra names are resolved."""
    return list(_required(extra, set()))


def unmet(extra: str = "") -> list[Unmet]:
    """Those of `required(extra)` that are missing or have a version that is not accepted."""
    candidates = ((requirement, _version(requirement.name)) for requirement in required(extra))
    return [
        Unmet(f"{requirement.name}{requirement.specifier}", version)
        for requirement, version in candidates
        if not _accepts(requirement, version)
    ]


def remedy(lacking: Sequence[Unmet]) -> str:
    """What is missing, what is too old, and the command that installs what is required."""
    missing = [one.requirement for one in lacking if not one.installed]
    wrong = [f"{one.requirement} is required, not {one.installed}" for one in lacking if one.installed]
    parts = [f"missing {', '.join(missing)}"] * bool(missing) + wrong
    return f"{'; '.join(parts)}: {install_command(lacking)}"


def install_command(lacking: Sequence[Unmet]) -> str:
    """The command that installs these requirements for the Python that runs now.

    A CPU build of torch is replaced by a CPU build.
    """
    cpu = any(one.requirement.startswith("torch") and one.installed.endswith("+cpu") for one in lacking)
    options = ["--extra-index-url", CPU_INDEX] if cpu else []
    return _pip("install", *options, *(one.requirement for one in lacking))


def rebuild_command() -> str:
    """The command that builds qkv again from where it was installed; "" where that is not known.

    What qkv requires is left as it is.
    """
    source = _source()
    return _pip("install", "--force-reinstall", "--no-deps", "--no-cache-dir", *source) if source else ""


def _metadata() -> list[Any]:
    try:
        return [metadata.metadata(NAME)]
    except metadata.PackageNotFoundError:
        return []


def _required(extra: str, visited: set[str]) -> Iterator[Requirement]:
    visited.add(extra)
    texts = (text for about in _metadata() for text in about.get_all("Requires-Dist", []))
    for requirement in map(Requirement, texts):
        if not _applies(requirement, extra) or (extra and _applies(requirement, "")):
            continue
        if requirement.name == NAME:
            for inner in sorted(requirement.extras - visited):
                yield from _required(inner, visited)
        else:
            yield requirement


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _version(package: str) -> str:
    try:
        return metadata.version(package) or ""
    except metadata.PackageNotFoundError:
        return ""


def _accepts(requirement: Requirement, version: str) -> bool:
    try:
        return bool(version) and requirement.specifier.contains(version, prereleases=True)
    except InvalidVersion:
        return False


def _pip(*arguments: str) -> str:
    if find_spec("pip"):
        return shlex.join([sys.executable, "-m", "pip", *arguments])
    command, *rest = arguments
    return shlex.join(["uv", "pip", command, "--python", sys.executable, *rest])


def _source() -> list[str]:
    """What to hand to pip so that it builds qkv again."""
    try:
        distribution = metadata.distribution(NAME)
    except metadata.PackageNotFoundError:
        return []
    recorded = distribution.read_text("direct_url.json")
    if recorded is None:
        return ["--no-binary", NAME, f"{NAME}=={distribution.version}"]
    origin = json.loads(recorded)
    url = origin["url"]
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        return [f"{vcs['vcs']}+{url}@{vcs['commit_id']}"]
    if "dir_info" not in origin:
        return [] if url.endswith(".whl") else [url]
    folder = url2pathname(urlsplit(url).path)
    if not os.path.isdir(folder):
        return []
    return ["--editable", folder] if origin["dir_info"].get("editable") else [folder]
