"""YAML and `--set a.b=c` to a resolved `Config`; every fault is one `ConfigError` line naming the field."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from fedpdpo_secure.config.errors import ConfigError
from fedpdpo_secure.config.models import Config
from fedpdpo_secure.config.rules import resolve


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The resolved configuration of `path` with `overrides` (each "section.key=value") on top.

    `${NAME}` in dataset, model, embeddings and test paths is read from the environment. Raises ConfigError.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"config {path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path}: cannot be read ({error})") from error
    values = _parse(text, str(path))
    for override in overrides:
        _apply(values, override)
    return make_config(values)


def make_config(values: dict[str, Any]) -> Config:
    """The resolved configuration of nested plain values. Raises ConfigError."""
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_one_line(error)) from error
    test, embeddings = _expand(config.data.test, "data.test"), _expand(config.survey.embeddings, "survey.embeddings")
    config = config.model_copy(
        update={
            "data": config.data.model_copy(update={"test": test}),
            "survey": config.survey.model_copy(update={"embeddings": embeddings}),
            "model_name_or_path": _expand(config.model_name_or_path, "model_name_or_path"),
            "dataset_name": _expand(config.dataset_name, "dataset_name"),
        }
    )
    return resolve(config)


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML; loading it gives the same configuration."""
    return yaml.safe_dump(config.model_dump(mode="python"), sort_keys=False, allow_unicode=True)


def config_digest(config: Config) -> str:
    """SHA-256 (hex) of the resolved configuration, without `output_dir`, which names no behaviour."""
    values = config.model_dump(mode="json", exclude={"output_dir"})
    return hashlib.sha256(json.dumps(_plain(values), sort_keys=True, allow_nan=False).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice and reads 1e-5 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ConfigError(f"{key}: given twice (line {key_node.start_mark.line + 1})")
            seen.add(key)
        return super().construct_mapping(node, deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _parse(text: str, path: str) -> dict[str, Any]:
    try:
        values = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"config {path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"config {path}: must be a mapping of sections")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set {override}: write key=value or section.key=value")
    *sections, key = name.strip().split(".")
    place = values
    for section in sections:
        inner = place.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: {section} is not a section")
        place = inner
    try:
        place[key] = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not YAML") from error


def _expand(text: str | None, field: str) -> str | None:
    if text is None:
        return None
    expanded = os.path.expandvars(text)
    missing = re.search(r"\$\{?(\w+)", expanded)
    if missing:
        raise ConfigError(f"{field}: the environment variable {missing.group(1)} is not set")
    return expanded


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    field = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = _keys_at(path[:-1])
        close = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
        return f"{field}: unknown key; {hint}"
    return f"{field}: {first['msg']} (given {first['input']!r})"


def _keys_at(path: Sequence[str]) -> list[str]:
    model: type[BaseModel] = Config
    for part in path:
        inner = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)
