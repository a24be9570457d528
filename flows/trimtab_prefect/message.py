"""What Alertmanager's webhook sends, version 4 of its format, as it is checked before anything is done about it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from trimtab.alerted import LABEL, Alert

__all__ = ["Message", "Sent"]

Text = Annotated[str, Field(max_length=4096)]
Texts = dict[Text, Text]
SUMMARY = 300


class Sent(BaseModel):
    """One alert of a message; keys that are not looked at may be there, too."""

    model_config = ConfigDict(frozen=True)

    status: Literal["firing", "resolved"]
    labels: Texts
    annotations: Texts = Field(default_factory=dict)
    started: AwareDatetime = Field(alias="startsAt")
    fingerprint: str = Field(pattern=r"^[0-9a-f]{1,32}$")

    @property
    def alert(self) -> Alert:
        """The alert as the engine knows it."""
        return Alert(
            name=self.labels.get("alertname", ""),
            project=self.labels.get("project", ""),
            fingerprint=self.fingerprint,
            started=self.started,
            firing=self.status == "firing",
            asks=self.labels.get(LABEL) == "true",
            summary=" ".join(self.annotations.get("summary", "").split())[:SUMMARY],
        )


class Message(BaseModel):
    """What one call tells: some alerts of one group.

    Examples
    --------
    >>> alert = {"status": "firing", "labels": {"alertname": "Worse", "project": "p"},
    ...          "startsAt": "2026-01-05T12:00:00Z", "fingerprint": "c0ffee"}
    >>> Message.model_validate({"version": "4", "alerts": [alert]}).alerts[0].alert.name
    'Worse'
    """

    model_config = ConfigDict(frozen=True)

    version: Literal["4"]
    alerts: tuple[Sent, ...] = Field(min_length=1)
