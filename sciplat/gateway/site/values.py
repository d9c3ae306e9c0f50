"""The kinds of value that a site file holds, each read from the words of the file.

A validation's context is the folder of the file; without one the values come from Python, where a number stands for
seconds or bytes. In a file a bare number has no unit and is refused.
"""

import re
from collections.abc import Callable
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from sciplat.errors import ArgumentError
from sciplat.gateway.site.variables import check_flag_name, check_variable, parse_flag
from sciplat.gateway.units import parse_duration, parse_memory

LEAST_WALLTIME = 20.0  # seconds of a worker: in its last 10 it takes no task


def split_address(address: str) -> tuple[str, int]:
    """Return the host and the port of "127.0.0.1:8000", "gateway.example.org:443" or "[::1]:8000".

    Raises
    ------
    ArgumentError
        If it is not of this form.
    """
    found = _ADDRESS.fullmatch(address)
    if not found or not 0 < int(found[2]) < 2**16:
        raise ArgumentError("this is no address with a port", found=repr(address)[:80], hint='"127.0.0.1:8000"')
    return found[1].strip("[]"), int(found[2])


def is_loopback(host: str) -> bool:
    """Return whether a host's name or address is one that no other machine reaches."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_ADDRESS = re.compile(r"([A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")


def _seconds(value: object, info: ValidationInfo) -> float:
    if info.context is None and isinstance(value, int | float) and not isinstance(value, bool):
        if not 0 < value < float("inf"):
            raise ArgumentError("the duration is none", found=repr(value), hint="seconds")
        return float(value)
    return parse_duration(value)


def _bytes(value: object, info: ValidationInfo) -> int:
    if info.context is not None and not isinstance(value, str):
        raise ArgumentError("the size has no unit", found=repr(value)[:80], hint='"4 GiB"')
    return parse_memory(value)


def _path(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str | Path) or not str(value).strip() or not str(value).isprintable():
        raise ArgumentError("this is no path", found=repr(value)[:80])
    try:
        return Path(info.context or Path.cwd(), Path(value).expanduser())
    except RuntimeError:  # of expanduser
        raise ArgumentError("this home folder is unknown", found=repr(value)[:80]) from None


def _text(pattern: str, hint: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ArgumentError("this cannot stand here", found=repr(value)[:80], hint=hint)
        return value

    return AfterValidator(check)


def _checked(check: Callable[[str], object]) -> AfterValidator:
    def run(value: str) -> str:
        check(value)
        return value

    return AfterValidator(run)


def _check_web_address(value: str) -> None:
    """Refuse what is no http(s) URL, and plain http to another machine: a hub's answers decide who is who."""
    hint = '"http://127.0.0.1:8081/hub/api" or "https://..."'
    try:
        url = urlsplit(value)
        host, _ = url.hostname or "", url.port
    except ValueError:
        raise ArgumentError("this is no URL", found=repr(value)[:80], hint=hint) from None
    if url.scheme not in {"http", "https"} or not host or not value.isprintable() or " " in value:
        raise ArgumentError("this is no URL", found=repr(value)[:80], hint=hint)
    if "@" in url.netloc or url.query or url.fragment:  # not shown: it may hold a password
        raise ArgumentError("this URL has a password, a query or a fragment", hint=hint)
    if url.scheme == "http" and not is_loopback(host):
        raise ArgumentError("tokens would travel unencrypted to another machine", found=value[:80], hint="https://")


def _ledger(value: str, info: ValidationInfo) -> str:
    """Return a database's URL with an absolute path; it may hold a password and is not shown in errors."""
    hint = '"sqlite:///ledger.sqlite" or "postgresql+psycopg://user@host/database"'
    kind, _, rest = value.partition("://")
    path = rest.removeprefix("/").partition("?")[0]
    if kind == "sqlite" and rest.startswith("/") and path and path != ":memory:" and path.isprintable():
        return f"sqlite:///{Path(info.context or Path.cwd(), path)}"
    if kind == "postgresql+psycopg" and rest and value.isprintable() and " " not in value:
        return value
    raise ArgumentError("this is no database of a ledger", hint=hint)


def _check_interface(value: str) -> None:
    hint = "127.0.0.1, or the name or IPv4 address of one network interface"
    try:
        address = IPv4Address(value)
    except ValueError:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,14}", value):  # 15 is the kernel's limit for names
            raise ArgumentError("this is no network interface", found=repr(value)[:80], hint=hint) from None
        return
    if address.is_unspecified or address.is_multicast:
        raise ArgumentError("this would listen on every interface", found=repr(value), hint=hint)


Seconds = Annotated[float, BeforeValidator(_seconds)]
Bytes = Annotated[int, BeforeValidator(_bytes)]
FilePath = Annotated[Path, BeforeValidator(_path)]
Count = Annotated[int, Field(strict=True, ge=0)]
Positive = Annotated[int, Field(strict=True, ge=1)]
Hours = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
SiteName = Annotated[str, _text(r"[a-z][a-z0-9-]{0,31}", "small letters, digits and -, a letter first, at most 32")]
ProfileName = Annotated[str, _text(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}", "letters, digits and _ . -, at most 32")]
UserName = Annotated[str, _text(r"[a-z_][a-z0-9_.-]{0,31}", "small letters, digits and _ . -, at most 32")]
GroupName = Annotated[str, _text(r"(?!\s)[^\x00-\x1f\x7f]{1,100}(?<!\s)", "one short line")]
Prefix = Annotated[str, _text(r"(/[A-Za-z0-9_~-][A-Za-z0-9_.~-]*)*", '"/services/sciplat-gateway", no / at the end')]
Word = Annotated[str, _text(r"[^\s\x00-\x1f\x7f-][^\s\x00-\x1f\x7f]{0,199}", "one word that does not begin with -")]
Line = Annotated[str, _text(r"[^\x00-\x08\x0a-\x1f\x7f\u2028\u2029]{1,2000}", "one line of a shell script")]
Staging = Annotated[str, _text(r"(?!.*/\.\.(/|$))(\{home\}|)(/[^\x00-\x1f\x7f{}/]+)+", '"{home}/.sciplat/clusters"')]
VariableName = Annotated[str, _checked(lambda name: check_variable(name, ""))]
FlagName = Annotated[str, AfterValidator(check_flag_name)]
Flag = Annotated[str, AfterValidator(parse_flag)]
Address = Annotated[str, _checked(split_address)]
WebAddress = Annotated[str, _checked(_check_web_address)]
Interface = Annotated[str, _checked(_check_interface)]
LedgerUrl = Annotated[str, AfterValidator(_ledger)]
