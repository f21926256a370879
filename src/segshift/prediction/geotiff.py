"""GeoTIFF in and out: the place of an image on earth is carried into its labels."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from segshift.errors import DataError
from segshift.extras import optional
from segshift.types import IGNORE
from segshift.whole_files import atomic_file

SUFFIXES = (".tif", ".tiff")


class Place(NamedTuple):
    """Where an image lies."""

    crs: Any
    """The coordinate reference system, as of rasterio; None where the file states none."""
    transform: Any
    """From pixels to coordinates."""


def read(path: Path, max_pixels: int) -> tuple[UInt8[Tensor, "3 h w"], Place]:
    """An RGB image of 8 bits, and its place. DataError for other bands or numbers, a file without coordinates, one of
    more than `max_pixels` pixels, and one that cannot be read."""
    rasterio = optional("rasterio", "geotiff", "--keep geotiff")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: is no TIFF by its name; expected .tif or .tiff. Leave geotiff out of --keep")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                bands, kinds = file.count, ", ".join(sorted(set(file.dtypes)))
                if file.driver != "GTiff" or bands != 3 or kinds != "uint8":
                    raise DataError(
                        f"{path}: is a {file.driver} of {bands} band(s) of {kinds}; expected a GeoTIFF of 3 bands "
                        "(red, green, blue) of uint8. Convert it: gdal_translate -ot Byte -scale -b 1 -b 2 -b 3 IN OUT"
                    )
                if file.crs is None and file.transform.is_identity:
                    raise DataError(f"{path}: states no coordinates; expected a GeoTIFF. Leave geotiff out of --keep")
                if file.height * file.width > max_pixels:
                    raise DataError(
                        f"{path}: has {file.height}x{file.width} pixels (height x width); expected at most "
                        f"{max_pixels}. Raise --max-pixels, or cut it"
                    )
                return torch.from_numpy(file.read()), Place(file.crs, file.transform)
    except (rasterio.errors.RasterioError, OSError) as error:
        raise DataError(f"{path}: cannot be read as a GeoTIFF ({error!s:.200}); restore it, or delete it") from error


def write(path: Path, label: UInt8[np.ndarray, "h w"], palette: UInt8[np.ndarray, "256 3"], place: Place) -> None:
    """A GeoTIFF of one band of ids with a palette, compressed; 255 is no data."""
    rasterio = optional("rasterio", "geotiff", "--keep geotiff")
    height, width = label.shape
    with atomic_file(path) as temporary:
        layout = {"driver": "GTiff", "count": 1, "dtype": "uint8", "compress": "deflate", "nodata": IGNORE}
        with rasterio.open(
            temporary, "w", height=height, width=width, crs=place.crs, transform=place.transform, **layout
        ) as file:
            file.write(label, 1)
            file.write_colormap(1, {number: (*map(int, color), 255) for number, color in enumerate(palette)})
