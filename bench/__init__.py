"""The benchmark harness: clock, certificate, journal and leaderboard. The trainer, speedrun.py, stands outside it."""
