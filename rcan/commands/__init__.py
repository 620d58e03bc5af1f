"""The commands: what a user types, checked by `rcan.cli`, done by the modules that they import."""
