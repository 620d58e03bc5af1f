"""Resolution in µm (`measures`), by Fourier ring correlation and by image decorrelation analysis, from `sections`."""
