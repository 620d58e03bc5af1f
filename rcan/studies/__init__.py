"""Studies of a trained network, from the files to the report: what `rcan evaluate` and `rcan limits` do."""
