"""Calibration recipes: one TOML a recipe, with its method, its number of images, how they are chosen and the seed."""
