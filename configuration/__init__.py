"""What a run is told: configuration files, settings, and what is said before it begins."""

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
from mixseg.configuration.start import start_command
from mixseg.configuration.yaml_text import set_knobs

__all__ = [
    "cause_of",
    "configurations",
    "end_with_parent",
    "literal",
    "load",
    "overlays",
    "read_parser",
    "read_settings",
    "set_knobs",
    "setting_texts",
    "settings_in",
    "silence",
    "start_command",
    "strings",
    "unknown_options",
]
