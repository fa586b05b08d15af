"""The one error that a configuration raises."""

from __future__ import annotations


class ConfigError(ValueError):
    """The configuration is refused; one line naming the field and the bound. Nothing was read, trained or spent."""
