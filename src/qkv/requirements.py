"""The requirements of this installation of qkv, which of them are not met, and the command that fixes it.

It imports neither torch nor anything else that may be missing.
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
    """A requirement that is not met.

    Args:
        requirement: Such as "numpy>=1.26".
        installed: The installed version; "" for none.
    """

    requirement: str
    installed: str


def is_installed() -> bool:
    """Check whether qkv is installed, so that its requirements are known; a checkout on the path is not.

    Returns:
        Whether it is installed.
    """
    return bool(_metadata())


def list_extras() -> list[str]:
    """List the optional extras.

    Returns:
        Their names.
    """
    return [name for about in _metadata() for name in about.get_all("Provides-Extra", [])]


def list_required(extra: str = "") -> list[Requirement]:
    """List the requirements of qkv on this platform, or those that an extra adds.

    Args:
        extra: The name of an extra; "" for qkv itself.

    Returns:
        The requirements; extras that an extra includes are resolved.
    """
    return list(_required(extra, set()))


def find_unmet(extra: str = "") -> list[Unmet]:
    """Find the requirements that are missing or have a version that is not accepted.

    Args:
        extra: The name of an extra; "" for qkv itself.

    Returns:
        The requirements that are not met.
    """
    candidates = ((requirement, _version(requirement.name)) for requirement in list_required(extra))
    return [
        Unmet(f"{requirement.name}{requirement.specifier}", version)
        for requirement, version in candidates
        if not _accepts(requirement, version)
    ]


def describe_fix(unmet: Sequence[Unmet]) -> str:
    """Describe what is missing, what is too old, and the command that installs it.

    Args:
        unmet: The requirements that are not met.

    Returns:
        One line.
    """
    missing = [entry.requirement for entry in unmet if not entry.installed]
    wrong = [f"{entry.requirement} is required, not {entry.installed}" for entry in unmet if entry.installed]
    parts = [f"missing {', '.join(missing)}"] * bool(missing) + wrong
    return f"{'; '.join(parts)}: {format_install_command(unmet)}"


def format_install_command(unmet: Sequence[Unmet]) -> str:
    """Write the command that installs requirements for the current Python.

    Args:
        unmet: The requirements.

    Returns:
        A shell command; it replaces a CPU build of torch by a CPU build.
    """
    is_cpu = any(
        entry.requirement.startswith("torch") and entry.installed.endswith("+cpu") for entry in unmet
    )
    options = ["--extra-index-url", CPU_INDEX] if is_cpu else []
    return _pip("install", *options, *(entry.requirement for entry in unmet))


def format_rebuild_command() -> str:
    """Write the command that builds qkv again from its source, without changing its requirements.

    Returns:
        A shell command; "" where the source is not known.
    """
    source = _source()
    return _pip("install", "--force-reinstall", "--no-deps", "--no-cache-dir", *source) if source else ""


def _metadata() -> list[Any]:
    """The metadata of the installed distribution; empty if there is none."""
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
    """Whether the environment marker of a requirement holds."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _version(package: str) -> str:
    """The installed version; "" for none."""
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
    """A command of pip, or of uv where pip is missing, for the current Python."""
    if find_spec("pip"):
        return shlex.join([sys.executable, "-m", "pip", *arguments])
    command, *options = arguments
    return shlex.join(["uv", "pip", command, "--python", sys.executable, *options])


def _source() -> list[str]:
    """The arguments of pip that select the source of qkv."""
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
