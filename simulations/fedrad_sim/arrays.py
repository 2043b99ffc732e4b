"""Arrays of an .npz, checked before one of them becomes DICOM: right keys, lengths, types and values, or one precise refusal."""

import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedrad_common.errors import MisuseError

Array: TypeAlias = npt.NDArray[Any]
_LABEL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_ -]{0,63}")  # fedrad_common.protocol.Label


class Archive:
    """One .npz file, read with pickles forbidden; each error names the file and what the array is for."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        try:
            self._stream = path.open("rb")
        except FileNotFoundError:
            raise MisuseError(f"{path.name}: no such file", hint=f"looked in {path.parent}") from None
        except OSError as error:
            raise MisuseError(f"{path.name}: cannot be read ({type(error).__name__})") from None
        try:
            self._arrays = np.load(self._stream, allow_pickle=False)
        except (ValueError, EOFError, OSError, zipfile.BadZipFile):
            self.close()
            raise self._not_an_archive() from None
        if not isinstance(self._arrays, np.lib.npyio.NpzFile):
            self.close()
            raise self._not_an_archive()

    def _not_an_archive(self) -> MisuseError:
        return MisuseError(f"{self._name}: is not a NumPy archive", hint="write it with numpy.savez_compressed(FILE, images=…, labels=…)")

    def close(self) -> None:
        self._stream.close()

    def error(self, what: str, problem: str, *, hint: str = "") -> MisuseError:
        return MisuseError(f"{self._name}: {what}: {problem}", hint=hint)

    def read(self, what: str, key: str) -> Array:
        """The array under `key`, which serves as `what`.

        Raises:
            MisuseError: no such key, an object array, or a damaged member.
        """
        if key not in self._arrays.files:
            raise self.error(what, f"no array {key!r}", hint=f"the file holds: {', '.join(self._arrays.files)}")
        try:
            return np.asarray(self._arrays[key])
        except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
            if "Object arrays" in str(error):
                hint = "objects are pickles, which can run code; save text as array.astype(str), numbers with a number type"
                raise self.error(what, f"array {key!r} holds Python objects", hint=hint) from None
            raise self.error(what, f"array {key!r} is damaged", hint="write the file anew") from None

    def images(self, key: str) -> tuple[Array, Callable[[Array], Array]]:
        """(n, H, W) as stored, and the function that makes one image unsigned integers; floats in [0, 1] become 0 … 65535."""
        images = self.read("image", key)
        if images.ndim == 4 and images.shape[3] == 1:
            images = images[..., 0]
        if images.ndim != 3 or 0 in images.shape:
            raise self.error("image", f"shape {images.shape}, expected (n, height, width) with one grey channel, none of them 0")
        if max(images.shape[1:]) > 0xFFFF:
            raise self.error("image", f"{max(images.shape[1:])} pixels on a side, DICOM holds at most 65535")
        if images.dtype in (np.uint8, np.uint16):
            return images, np.asarray
        if images.dtype.kind == "f":
            return images, lambda image: np.rint(image.astype(np.float64) * 0xFFFF).astype(np.uint16)
        hint = "cast to uint8 or uint16 without loss, or scale to floats in [0, 1] by constants, never by each image's own range"
        raise self.error("image", f"type {images.dtype}, expected uint8, uint16 or float in [0, 1]", hint=hint)

    def labels(self, key: str, n: int) -> npt.NDArray[np.uint8]:
        """(n, L) of 0 and 1."""
        labels = self._sized("label", key, n)
        labels = labels[:, None] if labels.ndim == 1 else labels
        if labels.ndim != 2 or labels.shape[1] == 0:
            raise self.error("label", f"shape {labels.shape}, expected (n,) or (n, labels)")
        if labels.dtype.kind not in "biuf":
            raise self.error("label", f"type {labels.dtype}, expected 0 and 1", hint="map each class to a column of 0 and 1")
        wrong = int(np.count_nonzero((labels != 0) & (labels != 1)))
        if wrong:
            hint = "one column of 0 and 1 for each label; several classes become several columns"
            raise self.error("label", f"{wrong} of {labels.size} values are neither 0 nor 1", hint=hint)
        return labels.astype(np.uint8)

    def texts(self, what: str, key: str, n: int) -> list[str]:
        """(n,) texts or integers, such that DICOM's LO can hold each."""
        values = self._sized(what, key, n)
        if values.ndim != 1 or values.dtype.kind not in "Uiu":
            raise self.error(what, f"type {values.dtype} of shape {values.shape}, expected (n,) texts or integers")
        texts = [str(value).strip() for value in values.tolist()]
        wrong = sum(not 0 < len(text) <= 64 or "\\" in text or not text.isprintable() for text in texts)
        if wrong:
            raise self.error(what, f"{wrong} of {n} values are empty, longer than 64 characters, or hold a backslash or control character")
        return texts

    def masks(self, key: str, images: Array) -> npt.NDArray[np.uint8]:
        """(n, ceil(H × W / 8)) packed bits, from packed bits or from (n, H, W) of zero and not zero."""
        masks = self._sized("mask", key, len(images))
        pixels = images.shape[1] * images.shape[2]
        if masks.shape == images.shape:
            return np.packbits((masks != 0).reshape(len(masks), pixels), axis=1)
        if masks.dtype == np.uint8 and masks.shape == (len(images), -(-pixels // 8)):
            return masks
        raise self.error(
            "mask", f"{masks.dtype} of shape {masks.shape}, expected {images.shape} or packed bits ({len(images)}, {-(-pixels // 8)})"
        )

    def _sized(self, what: str, key: str, n: int) -> Array:
        array = self.read(what, key)
        length = len(array) if array.ndim else 0
        if length != n:
            raise self.error(what, f"{length} entries, but there are {n} images", hint=f"{key!r} must be as long as the images")
        return array


def label_names(key: str, n_labels: int, given: tuple[str, ...] | None) -> tuple[str, ...]:
    """Columns of labels.csv: as given, else the array's key, numbered when there are several.

    Raises:
        MisuseError: another number of names than labels, a name twice, or one that a protocol could not use.
    """
    names = given or ((key,) if n_labels == 1 else tuple(f"{key}_{number}" for number in range(n_labels)))
    if len(names) != n_labels or len(set(names)) != n_labels:
        raise MisuseError(f"label names: {len(set(names))} different names for {n_labels} labels")
    for name in names:
        if not _LABEL_NAME.fullmatch(name):
            raise MisuseError(
                f"label names: {name!r} is no label", hint="a letter, then letters, digits, spaces, _ or -; at most 64; name the labels"
            )
    return names


@dataclass(frozen=True)
class Usable:
    """Which images can become DICOM. A value that is not a number cannot, nor a float outside [0, 1]."""

    kept: npt.NDArray[np.int64]
    n_nan: int
    n_outside: int


def usable(images: Array) -> Usable:
    if images.dtype.kind != "f":
        return Usable(np.arange(len(images)), 0, 0)
    nan = np.array([not np.isfinite(image).all() for image in images])
    outside = np.array([bool(((image < 0) | (image > 1)).any()) for image in images]) & ~nan
    return Usable(np.flatnonzero(~nan & ~outside), int(nan.sum()), int(outside.sum()))
