"""The contracts of plugins as checks that their authors run: each says what users lose when it fails."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from trimtab.errors import SettingsError, nearest
from trimtab.technique import About
from trimtab.testing.material import Material, quiet_frame, shared_material
from trimtab.testing.monitors import (
    check_batches_add_up,
    check_bears_broken_rows,
    check_few_rows_are_no_alarm,
    check_figures_come_from_what_is_stored,
    check_finding_is_complete,
    check_leaves_its_samples_alone,
    check_monitor_refuses_unknown_settings,
    check_monitor_says_what_it_is,
    check_quiet_window_is_quiet,
    check_same_window_same_finding,
    check_scores_are_numbers,
    check_what_it_keeps_is_shown_again,
)
from trimtab.testing.registries import (
    check_alias_follows,
    check_package_comes_back,
    check_tags_are_added,
    check_writes_happen_once,
)
from trimtab.testing.runtimes import (
    check_runtime_does_not_mix_rows,
    check_runtime_gives_answers_that_stay,
    check_runtime_names_a_damaged_file,
    check_runtime_predicts,
    check_runtime_says_what_it_is,
)
from trimtab.testing.sources import check_reading_again_gives_the_same, check_windows_close_in_order, check_windows_join
from trimtab.testing.techniques import (
    check_describes_what_it_wrote,
    check_gives_up_in_time,
    check_its_model_predicts,
    check_leaves_its_input_alone,
    check_names_missing_data,
    check_same_seed_same_model,
    check_settings_survive_yaml,
    check_shows_its_shape_without_effort,
    check_technique_refuses_unknown_settings,
    check_technique_says_what_it_is,
    check_works_without_labels,
    check_writes_only_into_its_folder,
)

__all__ = ["CHECKS", "Check", "Checked", "Material", "quiet_frame", "yield_checks"]

Checked = Literal["techniques", "monitors", "runtimes", "sources", "registries"]


@dataclass(frozen=True)
class Check:
    """One promise of a contract, bound to a plugin; calling it raises ``AssertionError`` when it is broken.

    Parameters
    ----------
    name
        Of the promise, for a test's id.
    loses
        What users lose when it is broken.
    """

    name: str
    loses: str
    run: Callable[[], None] = field(repr=False)

    def __call__(self) -> None:
        """Check it."""
        self.run()

    @property
    def __name__(self) -> str:
        return self.name


def yield_checks(kind: Checked, plugin: Any, material: Material | None = None) -> Iterator[Check]:
    """Yield the checks that a plugin must pass.

    Parameters
    ----------
    kind
        What it is: ``techniques``, ``monitors``, ``runtimes``, ``sources`` or ``registries``.
    plugin
        An object, with the settings that are to be tried. A registry is an empty one; a source has
        rows in window 1 at least.
    material
        Instead of the small table and network that the checks bring.

    Raises
    ------
    SettingsError
        For a kind without checks.

    Examples
    --------
    >>> from trimtab.monitor import Never
    >>> for check in yield_checks("monitors", Never()):
    ...     check()
    """
    checks = CHECKS.get(kind)
    if checks is None:
        raise SettingsError(f"no checks for {kind!r}; there are some for {', '.join(CHECKS)}.{nearest(kind, CHECKS)}")
    about = getattr(plugin, "about", None)
    shared = shared_material(about.takes if isinstance(about, About) else None)
    for function in checks:
        bound = functools.partial(function, plugin, material or shared)
        yield Check(function.__name__, inspect.getdoc(function) or "", bound)


CHECKS: Mapping[str, tuple[Callable[[Any, Material], None], ...]] = {
    "techniques": (
        check_technique_says_what_it_is,
        check_settings_survive_yaml,
        check_technique_refuses_unknown_settings,
        check_leaves_its_input_alone,
        check_writes_only_into_its_folder,
        check_same_seed_same_model,
        check_describes_what_it_wrote,
        check_its_model_predicts,
        check_names_missing_data,
        check_works_without_labels,
        check_gives_up_in_time,
        check_shows_its_shape_without_effort,
    ),
    "monitors": (
        check_monitor_says_what_it_is,
        check_monitor_refuses_unknown_settings,
        check_quiet_window_is_quiet,
        check_same_window_same_finding,
        check_finding_is_complete,
        check_scores_are_numbers,
        check_few_rows_are_no_alarm,
        check_bears_broken_rows,
        check_leaves_its_samples_alone,
        check_figures_come_from_what_is_stored,
        check_batches_add_up,
        check_what_it_keeps_is_shown_again,
    ),
    "runtimes": (
        check_runtime_says_what_it_is,
        check_runtime_predicts,
        check_runtime_does_not_mix_rows,
        check_runtime_gives_answers_that_stay,
        check_runtime_names_a_damaged_file,
    ),
    "sources": (check_windows_join, check_reading_again_gives_the_same, check_windows_close_in_order),
    "registries": (check_writes_happen_once, check_package_comes_back, check_alias_follows, check_tags_are_added),
}
