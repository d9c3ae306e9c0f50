"""The bytes of a FITS file: where its HDUs are, whether they are whole, and their arrays.

Headers are walked here, without astropy opening the file: a size is compared with the file's before anything of
that size is allocated, and no warning is raised that threads would have to suppress together. Tile-compressed
arrays are decoded by astropy.
"""

import gzip
import io
import math
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from sciplat.errors import InputError

_FIRST_USE = threading.Lock()
_BLOCK = 2880
_CARD = 80
_MAX_HEADER_BLOCKS = 2000
_MAX_COMPRESSION = 2000  # an array may be this much larger than its compressed form
_DTYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_EMPTY_PRIMARY = [
    b"SIMPLE  =                    T",
    b"BITPIX  =                    8",
    b"NAXIS   =                    0",
    b"EXTEND  =                    T",
]
_DECODING = re.compile(
    rb"(XTENSION|BITPIX  |NAXIS\d*|PCOUNT  |GCOUNT  |TFIELDS |T(TYPE|FORM|DIM|SCAL|ZERO|NULL)\d+|Z[A-Z]+\d*|BSCALE  "
    rb"|BZERO   |BLANK   ) *= [ -~]*$"
)
_VALUE = re.compile(r"(?=.{8}= )[A-Za-z0-9_-]+ *= |HIERARCH [^=]+=|CONTINUE  ")
_COPY = 1 << 22  # bytes read at once where they are only passed by


@dataclass(frozen=True)
class Hdu:
    """One HDU of a file: its header, and where its data lie.

    Parameters
    ----------
    index : int
        0 is the primary HDU.
    header : astropy.io.fits.Header
        As in the file, but for a tile-compressed image with the axes of the image.
    start, offset, size : int
        Bytes: start of the header, start of the data, length of the data without padding.
    shape : tuple of int
        Of the image, numpy's order; empty if the HDU holds no image.
    compressed : bool
        Tile-compressed in a table.
    """

    index: int
    header: fits.Header
    start: int
    offset: int
    size: int
    shape: tuple[int, ...]
    compressed: bool

    @property
    def name(self) -> str:
        """EXTNAME in capitals; empty without."""
        return str(self.header.get("EXTNAME", "")).strip().upper()

    @property
    def version(self) -> int:
        """EXTVER; 1 without."""
        return _integer(self.header, "EXTVER", 1)

    @property
    def is_image(self) -> bool:
        """Whether it holds a two-dimensional image; axes of length 1 before these do not count."""
        return len(self.shape) >= 2 and all(length == 1 for length in self.shape[:-2])


@dataclass(frozen=True)
class ArrayPlace:
    """Where an image array lies in its file, and how to decode it: small enough to be sent with a task.

    Parameters
    ----------
    hdu : int
        Number of the HDU.
    start, offset, size : int
        As in `Hdu`.
    shape : tuple of int
        (ny, nx).
    compressed : bool
        As in `Hdu`; then astropy takes the next four from the header.
    bitpix, scale, zero, blank : int, float, float, int or None
        BITPIX, BSCALE, BZERO, BLANK.
    datasum, checksum : str, bool
        DATASUM, empty without; whether there is a CHECKSUM.
    """

    hdu: int
    start: int
    offset: int
    size: int
    shape: tuple[int, int]
    compressed: bool
    bitpix: int
    scale: float
    zero: float
    blank: int | None
    datasum: str
    checksum: bool


def read_hdus(path: Path) -> list[Hdu]:
    """Walk the headers of a FITS file, plain or gzipped.

    Raises
    ------
    InputError
        The file cannot be opened, is no FITS file, is truncated, or claims sizes it cannot have.
    """
    with _errors_of(path), _opened(path) as (file, zipped):
        length = None if zipped else path.stat().st_size
        limit = path.stat().st_size * _MAX_COMPRESSION
        hdus: list[Hdu] = []
        while (hdu := _next_hdu(path, file, len(hdus))) is not None:
            end = hdu.offset + hdu.size
            if end > (limit if length is None else length):
                raise _truncated(path, hdu.index, f"{end} bytes needed, {length or limit} there")
            _pass_by(path, file, hdu, length)
            hdus.append(hdu)
        return hdus


def array_place(path: Path, hdu: Hdu) -> ArrayPlace:
    """Return where the array of an image HDU lies.

    Raises
    ------
    InputError
        The header's scaling is no number.
    """
    header = hdu.header
    with _errors_of(path):
        return ArrayPlace(
            hdu=hdu.index,
            start=hdu.start,
            offset=hdu.offset,
            size=hdu.size,
            shape=(hdu.shape[-2], hdu.shape[-1]),
            compressed=hdu.compressed,
            bitpix=_integer(header, "BITPIX", 0),
            scale=float(header.get("BSCALE", 1.0)),
            zero=float(header.get("BZERO", 0.0)),
            blank=_integer(header, "BLANK", 0) if "BLANK" in header else None,
            datasum=str(header.get("DATASUM", "")).strip(),
            checksum=bool(str(header.get("CHECKSUM", "")).strip()),
        )


def read_array(path: Path, place: ArrayPlace) -> tuple[NDArray[Any], float, float]:
    """Read the array of an image HDU.

    Returns
    -------
    array : ndarray, shape (ny, nx)
        Native byte order, as stored: integers are not scaled, but are NaN (as float64) where they are BLANK.
    scale, zero : float
        The physical value is `scale * array + zero`.

    Raises
    ------
    InputError
        The bytes do not agree with a CHECKSUM or DATASUM in the header, or cannot be decoded.
    """
    length = place.offset - place.start + place.size
    with _errors_of(path), _opened(path) as (file, _):
        file.seek(place.start)
        raw = file.read(-(-length // _BLOCK) * _BLOCK)
        if len(raw) < length:
            raise _truncated(path, place.hdu, f"{len(raw)} bytes of it there")
        _check_sums(path, place, raw)
        if place.compressed:
            head = place.offset - place.start
            return _decompress(raw[:head], raw[head:]).reshape(place.shape), 1.0, 0.0
        dtype = np.dtype(_DTYPES[place.bitpix])
        array = np.frombuffer(raw, dtype, math.prod(place.shape), place.offset - place.start)
        native = array.reshape(place.shape).astype(dtype.newbyteorder("="), copy=False)
        if place.blank is not None and dtype.kind != "f":
            native = np.where(native == place.blank, np.nan, native)
        return native, place.scale, place.zero


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, bool]]:
    """Open a file; gzipped ones are read through gzip, and the second value says so."""
    with path.open("rb") as file:
        start = file.read(2)
        file.seek(0)
        if start == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=file) as unzipped:
                yield cast(BinaryIO, unzipped), True
        else:
            yield file, False


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Turn everything that a broken file makes the readers raise into one InputError."""
    try:
        yield
    except InputError:
        raise
    except (OSError, EOFError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError) as error:
        raise InputError(f"{path} cannot be read", found=_one_line(error), hint="is the file complete?") from error
    except (zlib.error, struct.error, fits.VerifyError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path} is broken", found=_one_line(error), hint="get it once more") from error


def _next_hdu(path: Path, file: BinaryIO, index: int) -> Hdu | None:
    """Read the header at the file's position; None at its end, also if something else than FITS follows."""
    start = file.tell()
    blocks = [file.read(_BLOCK)]
    if not blocks[0].startswith(b"SIMPLE  =" if index == 0 else b"XTENSION="):
        if index == 0:
            found = "an empty file" if not blocks[0] else repr(blocks[0][:20])
            raise InputError(f"{path} is no FITS file", found=found, hint="only FITS, plain, .gz or .fz")
        return None
    while (end := re.search(rb"^(?:.{80})*?END {77}", blocks[-1], re.DOTALL)) is None:
        blocks.append(file.read(_BLOCK))
        if len(blocks[-1]) < _BLOCK or len(blocks) > _MAX_HEADER_BLOCKS:
            raise _truncated(path, index, "a header without END")
    blocks[-1] = blocks[-1][: end.end()]
    header = _parse_header(b"".join(blocks))
    axes = _axes(header, "NAXIS")
    compressed = header.get("ZIMAGE") is True
    is_image = index == 0 or str(header["XTENSION"]).strip() == "IMAGE"
    if is_image and _integer(header, "BITPIX", 0) not in _DTYPES:
        raise InputError(f"{path} is broken", found=f"HDU {index} has BITPIX {header.get('BITPIX')}")
    words = _integer(header, "GCOUNT", 1) * (_integer(header, "PCOUNT", 0) + math.prod(axes)) if axes else 0
    size = abs(_integer(header, "BITPIX", 8)) // 8 * words
    if size < 0:
        raise InputError(f"{path} is broken", found=f"HDU {index} has a negative size")
    shape = axes[::-1] if is_image else ()
    if compressed:
        shape = _unpack_header(path, header, size)
    return Hdu(index, header, start, start + len(blocks) * _BLOCK, size, shape, compressed)


def _parse_header(raw: bytes) -> fits.Header:
    """Parse a header without what astropy would warn of: comments, and cards that are not FITS."""
    text = re.sub(rb"[^ -~]", b"?", raw).decode("ascii")
    cards = (text[at : at + _CARD] for at in range(0, len(text), _CARD))
    return fits.Header.fromstring("".join(filter(_VALUE.match, cards)))


def _unpack_header(path: Path, header: fits.Header, size: int) -> tuple[int, ...]:
    """Give the header of a compressed image the image's axes and return its shape."""
    rows, axes = _integer(header, "NAXIS2", 0), _axes(header, "ZNAXIS")
    tiles = [_integer(header, f"ZTILE{k}", axes[0] if k == 1 else 1) for k in range(1, len(axes) + 1)]
    pixels = math.prod(axes) * abs(_integer(header, "ZBITPIX", 8)) // 8
    if pixels > max(size, _BLOCK) * _MAX_COMPRESSION:
        raise InputError(
            f"{path} claims an image that it cannot hold",
            found=f"{axes}, compressed to {size} bytes",
            hint="get the file once more",
        )
    if min(tiles, default=0) < 1 or rows != math.prod(-(-n // t) for n, t in zip(axes, tiles, strict=True)):
        raise InputError(f"{path} is broken", found=f"an image {axes} in {rows} tiles of {tiles}")
    for name in [name for name in header if re.fullmatch(r"NAXIS\d*|BITPIX", name)]:
        del header[name]
    header["BITPIX"], header["NAXIS"] = _integer(header, "ZBITPIX", 8), len(axes)
    for k, length in enumerate(axes, 1):
        header[f"NAXIS{k}"] = length
    return axes[::-1]


def _axes(header: fits.Header, name: str) -> tuple[int, ...]:
    count = _integer(header, name, 0)
    if not 0 <= count <= 999:
        raise ValueError(f"{name} = {count}")
    axes = tuple(_integer(header, f"{name}{k}", -1) for k in range(1, count + 1))
    if any(length < 0 for length in axes):
        raise ValueError(f"{name} = {count}, with the axes {axes}")
    return axes


def _integer(header: fits.Header, name: str, default: int) -> int:
    value = header.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} = {value!r} is no integer")
    return value


def _pass_by(path: Path, file: BinaryIO, hdu: Hdu, length: int | None) -> None:
    """Go to the end of the HDU's data; what is compressed as a whole must be read for that."""
    end = hdu.offset + hdu.size
    file.seek(hdu.offset)
    if length is None:
        while (left := end - file.tell()) > 0:
            if not file.read(min(left, _COPY)):
                raise _truncated(path, hdu.index, f"{end} bytes needed, {file.tell()} there")
        file.read(-end % _BLOCK)
    else:
        file.seek(end + -end % _BLOCK)


def _decompress(header: bytes, data: bytes) -> NDArray[Any]:
    """Decode a tile-compressed image, given the bytes of its HDU.

    astropy gets a file of this HDU alone, without the cards that do not concern the decoding: it would warn of
    those that it does not like.
    """
    cards = [card for at in range(0, len(header), _CARD) if _DECODING.match(card := header[at : at + _CARD])]
    for card in cards:
        _ = fits.Card.fromstring(card).value  # raises what astropy would warn of
    _fill_dither_table()
    alone = _block([*_EMPTY_PRIMARY, b"END"]) + _block([*cards, b"END"]) + data
    try:
        with fits.open(io.BytesIO(alone), memmap=False) as hdus:
            array = np.asarray(hdus[1].data)
    except Exception as error:  # the decoder's own exception class is private
        raise ValueError(f"the compressed pixels cannot be decoded: {_one_line(error)}") from error
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _fill_dither_table() -> None:
    """Let astropy fill its table of dither values before two threads decode at once.

    It does so at the first use, without a lock and without the interpreter's: a second thread would take the values
    from a table that is half filled, and its pixels would be wrong.
    """
    with _FIRST_USE:
        _fill_dither_table_once()


@lru_cache(maxsize=1)
def _fill_dither_table_once() -> None:
    noise = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    hdu = fits.CompImageHDU(noise, compression_type="RICE_1", quantize_method=1, dither_seed=1)
    hdu.writeto(io.BytesIO())


def _block(cards: list[bytes]) -> bytes:
    text = b"".join(card.ljust(_CARD) for card in cards)
    return text.ljust(-(-len(text) // _BLOCK) * _BLOCK)


def _check_sums(path: Path, place: ArrayPlace, raw: bytes) -> None:
    """Compare with DATASUM and CHECKSUM (FITS standard 4.0, appendix J) where the header has them."""
    padded = raw.ljust(-(-len(raw) // _BLOCK) * _BLOCK, b"\0")
    data = memoryview(padded)[place.offset - place.start :]
    if place.datasum and int(place.datasum) != (found := _ones_complement_sum(data)):
        raise InputError(
            f"{path} has been damaged: the data of HDU {place.hdu} do not agree with DATASUM",
            found=f"{found}, not {place.datasum}",
            hint="get the file once more",
        )
    if place.checksum and _ones_complement_sum(padded) not in (0, 0xFFFFFFFF):
        raise InputError(
            f"{path} has been damaged or edited: HDU {place.hdu} does not agree with CHECKSUM",
            hint="get the file once more, or renew its checksums with astropy's fitscheck --write",
        )


def _ones_complement_sum(raw: bytes | memoryview) -> int:
    total = int(np.frombuffer(raw, ">u4").sum(dtype=np.uint64))
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def _truncated(path: Path, index: int, found: str) -> InputError:
    return InputError(f"{path} is truncated: HDU {index} is not whole", found=found, hint="get the file once more")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
