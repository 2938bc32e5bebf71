"""Settings, their sources and the shipped recipes."""
