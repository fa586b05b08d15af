"""What a run is told: models (fields and bounds), rules (joint bounds), load (YAML to a resolved Config)."""

from fedpdpo_secure.config.errors import ConfigError
from fedpdpo_secure.config.load import config_digest, dump_config, load_config, make_config
from fedpdpo_secure.config.models import Config
from fedpdpo_secure.config.rules import releases

__all__ = ["Config", "ConfigError", "config_digest", "dump_config", "load_config", "make_config", "releases"]
