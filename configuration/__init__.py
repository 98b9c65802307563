"""Configuration of a run: files, settings, and checks before it starts."""

from mixseg.configuration.loading import (
    cause_of,
    configurations,
    load,
    overlays,
    read_parser,
    silence,
    strings,
)
from mixseg.configuration.parent import end_with_parent
from mixseg.configuration.settings import (
    literal,
    read_settings,
    setting_texts,
    settings_in,
    unknown_options,
)
from mixseg.configuration.start import RunRefusedError, begin_training, start_command
from mixseg.configuration.workflow import bundle_folder
from mixseg.configuration.yaml_text import set_values

__all__ = [
    "RunRefusedError",
    "begin_training",
    "bundle_folder",
    "cause_of",
    "configurations",
    "end_with_parent",
    "literal",
    "load",
    "overlays",
    "read_parser",
    "read_settings",
    "set_values",
    "setting_texts",
    "settings_in",
    "silence",
    "start_command",
    "strings",
    "unknown_options",
]
