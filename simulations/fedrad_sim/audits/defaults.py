"""The sizes of the audits that are on record: what is expected besides the claim was measured at these, and holds for no others."""

CLAIM, SMALL_CLAIM = 8.0, 4.0  # epsilon; counting runs and guesses proves little above the smaller
RUNS, SIDE, MODELS, CANDIDATES, REPEATS = 4000, 64, 8, 100, 5
