"""Addresses of servers and databases as they are shown, logged and kept: without their passwords."""

from __future__ import annotations

import re
from collections.abc import Sequence

from trimtab.errors import InputError

__all__ = ["masked", "refuse_passwords"]

# User and password of an address, up to the last @: an unquoted password may hold @, / and #.
BEFORE_HOST = re.compile(r"(?<=://)([^:/@]*):(.*)@")
# What follows host and path, as in ?password=... of libpq's addresses.
AFTER_PATH = re.compile(r"(?i)(?<=[?&])(\w*password)=[^&\s'\"]*")


def masked(address: str) -> str:
    """Return an address, or a text with one in it, without the password.

    Examples
    --------
    >>> masked("postgresql+psycopg://me:s3cret@host/journal")
    'postgresql+psycopg://me:***@host/journal'
    >>> masked("postgresql+psycopg://host/journal?user=me&password=s3cret")
    'postgresql+psycopg://host/journal?user=me&password=***'
    >>> masked("http://host:5000")
    'http://host:5000'
    """
    return AFTER_PATH.sub(r"\1=***", BEFORE_HOST.sub(r"\1:***@", address, count=1))


def refuse_passwords(overrides: Sequence[str]) -> None:
    """Refuse settings whose password other processes would be told on their command line, or by a server.

    Parameters
    ----------
    overrides
        ``key.key=value`` each.

    Raises
    ------
    InputError
        Naming the variable to set instead.

    Examples
    --------
    >>> refuse_passwords(["journal.url=postgresql+psycopg://me@host/journal"])
    >>> refuse_passwords(["journal.url=postgresql+psycopg://me:s3cret@host/journal"])
    Traceback (most recent call last):
    ...
    trimtab.errors.InputError: --set journal.url holds a password, which others could read; ... TRIMTAB_JOURNAL__URL ...
    """
    for key, _, value in (item.partition("=") for item in overrides):
        if masked(value) != value:
            variable = f"TRIMTAB_{key.upper().replace('.', '__')}"
            raise InputError(
                f"--set {key} holds a password, which others could read; set {variable} in the environment of the "
                "processes that need it, or leave the password out of the address (PGPASSWORD, ~/.pgpass)"
            )
