"""Finding a plugin by its name through entry points: the one way in, for our own and for a stranger's."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import TypeAdapter, ValidationError

from trimtab.errors import PluginError, SettingsError, TrimtabError, nearest

__all__ = ["KINDS", "Kind", "build", "find", "installed", "load_object", "make", "requirements", "source_digest"]

Kind = Literal[
    "monitors",
    "techniques",
    "runtimes",
    "metrics",
    "meters",
    "sources",
    "trainers",
    "registries",
    "samplers",
    "runners",
    "carriers",
    "exporters",
    "pages",
    "demos",
    "schedulers",
    "services",
    "doctors",
    "hooks",
]
KINDS: tuple[Kind, ...] = get_args(Kind)


@cache
def installed(kind: Kind) -> Mapping[str, EntryPoint]:
    """Return the entry points of one kind by name.

    Examples
    --------
    >>> "finetune" in installed("techniques")
    True
    """
    return {point.name: point for point in entry_points(group=f"trimtab.{kind}")}


def requirements(kind: Kind, name: str) -> list[str]:
    """Return what pip must install where a plugin is to run: trimtab and the plugin's own distribution, as here.

    Examples
    --------
    >>> requirements("runtimes", "openvino")
    ['trimtab[openvino]==...']
    """
    point = installed(kind)[name]
    own = "trimtab" if point.dist is None else point.dist.name
    extras = "".join(re.findall(r"\[.*\]", point.value)).replace(" ", "")  # the point's own list tears hyphens apart
    return [*(["trimtab==" + version("trimtab")] if own != "trimtab" else []), f"{own}{extras}=={version(own)}"]


def find(kind: Kind, name: str, where: str = "") -> type[Any]:
    """Return the class that is registered under ``name``.

    Parameters
    ----------
    where
        The setting that names it, for messages.

    Raises
    ------
    PluginError
        When nothing is, with what is installed and the nearest name; or when it does not import,
        with the extra to install.

    Examples
    --------
    >>> find("techniques", "finetun")
    Traceback (most recent call last):
    ...
    trimtab.errors.PluginError: no technique named 'finetun'; installed: ... Did you mean 'finetune'?
    """
    points, at = installed(kind), f"{where}: " if where else ""
    singular = "registry" if kind == "registries" else kind.removesuffix("s")
    if name not in points:
        have = ", ".join(sorted(points)) or "none"
        raise PluginError(f"{at}no {singular} named {name!r}; installed: {have}.{nearest(name, points)}")
    point = points[name]
    try:
        loaded: type[Any] = point.load()
    except (ImportError, AttributeError) as error:
        extra = point.extras[0] if point.extras else None
        way = f"pip install 'trimtab[{extra}]'" if extra else "install what it imports"
        raise PluginError(f"{at}{singular} {name!r} ({point.value}) does not import: {error}; {way}") from error
    except Exception as error:  # a stranger's module may raise anything while it imports
        raise PluginError(
            f"{at}{singular} {name!r} ({point.value}) does not import: it raised {type(error).__name__}: {error}; "
            "mend it"
        ) from error
    return loaded


def build(kind: Kind, name: str, settings: Mapping[str, Any], where: str) -> Any:
    """Make the plugin ``name`` with ``settings``, checked against the types of its dataclass fields.

    Parameters
    ----------
    where
        How the project file calls the settings, for messages (``optimize.techniques.finetune``).

    Raises
    ------
    SettingsError
        For an unknown setting (with the nearest right one) or a value against its type or rule.
    PluginError
        When there is no such plugin, or it does not import or raises.
    """
    return make(find(kind, name, where), name, settings, where)


def make(cls: type[Any], name: str, settings: Mapping[str, Any], where: str) -> Any:
    """Make a plugin of a class that is at hand; as :func:`build`, without looking it up."""
    fields = list(inspect.signature(cls).parameters)
    for key in settings:
        if key not in fields:
            have = ", ".join(fields) or "none"
            raise SettingsError(f"{where}: unknown setting {key!r}; {name} has {have}.{nearest(key, fields)}")
    try:
        return TypeAdapter(cls).validate_python(dict(settings)) if dataclasses.is_dataclass(cls) else cls(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join([where, *(str(part) for part in first["loc"])])
        message = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{at}: {message}, got {first.get('input')!r}") from error
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{where}: {error}") from error
    except TrimtabError:
        raise
    except Exception as error:  # a stranger's class may raise anything
        raise PluginError(
            f"{where}: {name} raised {type(error).__name__} when it was made: {error}; "
            f"change the settings under {where}, or mend the plugin"
        ) from error


def look_beside(folder: Path) -> None:
    """Let modules in ``folder`` (a project file's) be imported: the factory that the project names may lie there."""
    path = str(folder.absolute())
    if path not in sys.path:
        sys.path.insert(0, path)


def source_digest(reference: str | None, setting: str) -> str:
    """Return the digest of the file that holds what a project names as ``module:name``; empty for None.

    What is built follows from that code, and has to be built anew when it changes. Modules that it
    imports are not looked at.
    """
    if reference is None:
        return ""
    load_object(reference, setting)
    path = inspect.getsourcefile(sys.modules[reference.partition(":")[0]])
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""


def load_object(reference: str, setting: str) -> Any:
    """Import ``module:name`` that a project names: the user's own code, run with the user's rights.

    Parameters
    ----------
    setting
        The setting that holds the reference, for messages.

    Raises
    ------
    PluginError
        When the reference is malformed, the module does not import, or has no such name.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise PluginError(f"{setting}: {reference!r} is not of the form 'module:name'")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's module may raise anything while it imports
        raise PluginError(
            f"{setting}: module {module_name!r} does not import ({type(error).__name__}: {error}); "
            "put the file beside the project file, or install it"
        ) from error
    if not hasattr(module, attribute):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise PluginError(
            f"{setting}: module {module_name!r} has no {attribute!r}.{nearest(attribute, public)} "
            f"It has {', '.join(public) or 'no public name'}."
        )
    return getattr(module, attribute)
