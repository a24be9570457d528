"""What several checks ask alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from trimtab import discover
from trimtab.errors import SettingsError
from trimtab.technique import About

__all__ = ["has", "name_of", "refuses_unknown", "remade", "require", "says_what_it_is"]


def require(holds: bool, message: str) -> None:
    """Raise an AssertionError with the message unless what is asked for holds."""
    if not holds:
        raise AssertionError(message)


def says_what_it_is(plugin: Any, attributes: Mapping[str, type]) -> None:
    """Require a frozen dataclass with these class attributes, none of which is a setting."""
    require(dataclasses.is_dataclass(plugin), f"{type(plugin).__name__} is not a dataclass; its fields are settings")
    require(plugin.__dataclass_params__.frozen, f"{type(plugin).__name__} is not frozen; write @dataclass(frozen=True)")
    has(plugin, attributes)
    for name in attributes:
        require(
            name not in {f.name for f in dataclasses.fields(plugin)},
            f"{type(plugin).__name__}.{name} is a setting; annotate it as ClassVar",
        )


def has(plugin: Any, attributes: Mapping[str, type]) -> None:
    """Require class attributes of these types."""
    for name, wanted in attributes.items():
        value = getattr(type(plugin), name, None)
        require(
            isinstance(value, wanted),
            f"{type(plugin).__name__}.{name} is {value!r}; the contract asks for a class attribute ({wanted.__name__})",
        )


def name_of(plugin: Any) -> str:
    """Return the name that settings call a plugin by."""
    return str(plugin.about.name if isinstance(getattr(plugin, "about", None), About) else plugin.name)


def refuses_unknown(plugin: Any) -> None:
    """Require that a setting that it does not have is refused by name."""
    try:
        remade(plugin, {"no_such_setting": 1})
    except SettingsError as error:
        require("no_such_setting" in str(error), f"the refusal does not name the setting: {error}")
    else:
        require(False, f"{name_of(plugin)} takes a setting 'no_such_setting' in silence")


def remade(plugin: Any, settings: Mapping[str, Any]) -> Any:
    """Make a plugin of the same kind with other settings."""
    return discover.make(type(plugin), name_of(plugin), settings, name_of(plugin))
