"""Resolution in µm, by Fourier ring correlation and by image decorrelation analysis."""
