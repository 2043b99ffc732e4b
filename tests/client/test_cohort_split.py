"""Who validates is a property of the patient and the site's key alone."""

from fedrad_client.cohort.split import part_of

KEY = bytes(range(32))


def parts(n: int, fraction: float, key: bytes = KEY) -> list[str]:
    return [part_of(f"P{number}".encode(), key=key, fraction=fraction) for number in range(n)]


def test_the_fraction_is_about_right():
    assert 0.17 < parts(4000, 0.2).count("validation") / 4000 < 0.23


def test_the_ends_of_the_fraction_hold_exactly():
    assert set(parts(300, 0.0)) == {"training"}
    assert set(parts(300, 1.0)) == {"validation"}


def test_a_larger_fraction_only_adds_validation_patients():
    small, large = parts(500, 0.1), parts(500, 0.4)

    assert all(after == "validation" for before, after in zip(small, large, strict=True) if before == "validation")


def test_another_key_splits_anew():
    assert parts(500, 0.5) != parts(500, 0.5, key=b"x" * 32)
