"""Finding the configuration: a file that is named, or the nearest one from the working directory upwards.

A folder offers, in this order: the configuration of a `trivet up` that runs there, `trivet.toml`, and the data of a
Trivet that ran there before. A folder above the working directory is trusted only where nobody else can write it.
"""

import grp
import logging
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from trivet_tasks.config.running import LOCK_NAME, running_in
from trivet_tasks.errors import ConfigError

log = logging.getLogger("trivet")

CONFIG_VARIABLE = "TRIVET_CONFIG"
CONFIG_NAME = "trivet.toml"
DATA_DIR = ".trivet"
DATABASE_NAME = "trivet.db"
_ROOT = 0


class Found(NamedTuple):
    """The place of the configuration."""

    folder: Path
    """Relative paths count from here, and `.trivet/` is in it."""
    path: Path | None = None
    """The file; None: there is none, and the settings are defaults and variables."""
    how: str = ""
    """Reason for this place, as in `found in …`; empty: nothing was found."""


def find_configuration(named: Path | None = None, *, running: bool = True, parents: bool = True) -> Found:
    """Return the configuration that is in force here.

    Args:
        named: the file, instead of a search.
        running: whether the configuration of a Trivet that runs here counts.
        parents: whether folders above the working directory are searched.

    Raises:
        ConfigError: what was found above the working directory can be written by others, or there is no such directory.
    """
    variable = os.environ.get(CONFIG_VARIABLE)
    if named is not None or variable:
        path = (named or Path(variable or "")).absolute()
        return Found(path.parent, path, "named" if named is not None else f"named by {CONFIG_VARIABLE}")
    here = _working_directory()
    for folder in (here, *here.parents) if parents else (here,):
        if found := _in_folder(folder, here, running=running):
            return found
    return Found(here)


def nothing_found(found: Found) -> ConfigError:
    """Return the error of a command that needs a configuration where there is none."""
    return ConfigError(
        f"There is no configuration, and no Trivet runs here: neither {found.folder} nor a folder above it has a "
        f"{CONFIG_NAME}, and no TRIVET_* variable is set.",
        hint="Go to the folder of your configuration or name it with --config or TRIVET_CONFIG, write one with "
        "`trivet config init`, or start a Trivet without accounts with `trivet up --simulate`.",
    )


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise ConfigError("The working directory was deleted.", hint="Go to another folder.") from None


def _in_folder(folder: Path, here: Path, *, running: bool) -> Found | None:
    file, data, own = folder / CONFIG_NAME, folder / DATA_DIR, folder == here
    other = running_in(data) if running else None
    if other and not (own and _distrust(data)):
        _check_trust(here, data, own=own)
        if other.config is not None or not _is_file(file):
            return Found((other.config or file).parent, other.config, f"of the `trivet up` that runs in {folder}")
    if _is_file(file):
        _check_trust(here, file, folder, file.resolve(), file.resolve().parent, own=own)
        return Found(folder, file, f"in {folder}" if own else f"in {folder}, above the working directory")
    if _is_file(data / DATABASE_NAME) or _is_file(data / LOCK_NAME):
        _check_trust(here, data, own=own)
        return Found(folder, None, f"of the Trivet that ran in {folder} before")
    return None


def _is_file(path: Path) -> bool:
    """Return whether it is a file; False also for one that this user may not see."""
    with suppress(OSError):
        return stat.S_ISREG(path.stat().st_mode)
    return False


def _check_trust(here: Path, *places: Path, own: bool) -> None:
    """Refuse what others can change. In the working directory itself it is used, with a warning if every user can.

    Raises:
        ConfigError: names it, its owner and its mode.
    """
    reason = _distrust(*places)
    if own:
        if places[0].stat().st_mode & stat.S_IWOTH:
            log.warning("%s: %s. `chmod o-w` prevents that.", places[0], reason)
    elif reason:
        raise ConfigError(
            f"{places[0]}: is not used, because {reason}. It was found above the working directory, {here}.",
            hint="Make it yours alone (chown, chmod go-w), or name the configuration to use with --config or "
            f"{CONFIG_VARIABLE}.",
        )


def _distrust(first: Path, *around: Path) -> str:
    """Return a clause on why others can change a file or folder, or those around it; empty: only this user and root can."""
    me, owner = os.geteuid(), first.stat().st_uid
    for one in dict.fromkeys((first, *around)):
        status = one.stat()
        name, user = "it" if one == first else str(one), _user(status.st_uid)
        shown = f"(owner {user}, mode {stat.S_IMODE(status.st_mode):04o})"
        if status.st_uid not in (_ROOT, me):
            return f"{name} belongs to {user} {shown}"
        if status.st_mode & stat.S_ISVTX and owner == status.st_uid == me:
            continue  # nobody else can replace a file of ours there
        if status.st_mode & stat.S_IWOTH:
            return f"every user can write {name} {shown}"
        if status.st_mode & stat.S_IWGRP and not _private(status):
            return f"the group {_group(status.st_gid)} can write {name} {shown}"
    return ""


def _private(status: os.stat_result) -> bool:
    """Return whether the group is the owner's alone, as each user has one where the umask is 002."""
    try:
        owner, group = pwd.getpwuid(status.st_uid), grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    own = owner.pw_gid == status.st_gid and owner.pw_name == group.gr_name
    return own and set(group.gr_mem) <= {owner.pw_name}


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
