"""Which modality value becomes black and which becomes white: fixed, by percentiles of one image, or by a series' z-score."""

from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.pixels.levels import Tally
from fedrad_common.profiles import PixelProfile

Ends = tuple[float, float]  # modality values that become 0 and SCALE


def percentiles_of(tally: Tally, profile: PixelProfile) -> Ends:
    """The profile's percentiles of what the tally counted. Raises Quarantined: all of it is one value."""
    darkest, brightest = float(tally.values[0]), float(tally.values[-1])
    if darkest == brightest:
        raise Quarantined("bad-pixels")
    low, high = tally.percentile(profile.lower), tally.percentile(profile.upper)
    # Nearly all pixels alike, as in a mask: then the extremes are the picture.
    return (low, high) if low < high else (darkest, brightest)


def z_scores_of(tally: Tally, profile: PixelProfile) -> Ends:
    """`lower` and `upper` standard deviations from the mean of the foreground of a whole series, or of one slice.

    Raises:
        Quarantined: all of it is one value.
    """
    dark, bright = tally.percentile(1), tally.percentile(99)
    foreground = tally.above(dark + profile.background * (bright - dark))
    for one in (foreground, tally):  # a mask of two values has a foreground of one: then all of it counts
        mean, deviation = one.moments() if len(one.values) > 1 else (0.0, 0.0)
        if deviation > 0:
            return mean + profile.lower * deviation, mean + profile.upper * deviation
    raise Quarantined("bad-pixels")
