"""Target profiles: one TOML a device, with what it can do and the budget it must meet."""
