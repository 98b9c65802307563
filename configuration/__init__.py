"""What a run is told: configuration files, settings, and what is said before it begins."""
