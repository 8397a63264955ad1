"""The harness: it owns the clock, the verdict and the journal; the trainer owns the step."""
