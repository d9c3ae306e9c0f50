"""Access tokens: opaque, named, scoped, expiring, revocable; a file keeps nothing of them but digests.

A token reads `sciplat_<id>_<secret>`. The id finds the record, the digest of the secret proves the token, so a copy of
the file lets nobody in. Times are seconds since 1970, UTC, and come from the caller.
"""

import base64
import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sciplat.errors import ArgumentError, SiteError, TokenRefused
from sciplat.gateway.units import iso

__all__ = ["PREFIX", "SCOPES", "Token", "Tokens", "described", "is_user_name", "refused"]

SCOPES = ("read", "clusters", "tokens", "metrics", "admin")
PREFIX = "sciplat_"
_DAY = 86400.0
_KEPT = 90 * _DAY  # how long an ended token is remembered, so that its owner learns why it is refused
_MOST = 100  # living tokens of a user, and as many ended ones that are remembered: the file is read whole
_TEXT = re.compile(PREFIX + r"([a-z2-7]{10})_([A-Za-z0-9_-]{43})")
_USER = re.compile(r"[a-z_][a-z0-9_.-]{0,31}")
_NOBODYS = hashlib.sha256(b"").hexdigest()  # what a token with an unknown id is compared with


@dataclass(frozen=True)
class Token:
    """What is known of a token, apart from its secret.

    Attributes
    ----------
    id : str
        Ten characters, part of the token's text.
    name : str
        What its owner calls it.
    user : str
    scopes : tuple of str
        Some of `SCOPES`.
    created : float
    expires, revoked : float or None
    groups : tuple of str
        Its owner's when it was made, as far as the authenticator knew them that vouched for its owner.
    """

    id: str
    name: str
    user: str
    scopes: tuple[str, ...]
    created: float
    expires: float | None
    revoked: float | None
    groups: tuple[str, ...] = ()

    def ended(self, now: float) -> float | None:
        """Return when the token stopped being good, None if it is good still."""
        if self.revoked is not None:
            return self.revoked
        return self.expires if self.expires is not None and self.expires <= now else None


class Tokens:
    """The tokens of a site, in one file of mode 0600.

    Parameters
    ----------
    path : Path
        The file; it and its folder are made with the first token. Several processes may use it at once, and see each
        other's changes at once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, int, int] | None = None
        self._records: dict[str, tuple[Token, str]] = {}

    def create(
        self,
        user: str,
        name: str,
        *,
        scopes: Sequence[str] = ("read", "clusters"),
        lifetime: float | None = 90 * _DAY,
        groups: Sequence[str] = (),
        now: float,
    ) -> tuple[Token, str]:
        """Make a token.

        Parameters
        ----------
        user : str
            Whose it is.
        name : str
            What its owner calls it.
        scopes : sequence of str
            Some of `SCOPES`.
        lifetime : float or None
            Seconds; None is for ever.
        groups : sequence of str
            Of the user: their quotas and profiles go with the token.
        now : float

        Returns
        -------
        tuple of Token and str
            The record, and the token's text, which is kept nowhere.

        Raises
        ------
        ArgumentError
            If the user, the name, a scope or the lifetime cannot be, or the user has a hundred tokens already.
        """
        _check(user, name, scopes, lifetime)
        key = base64.b32encode(secrets.token_bytes(7)).decode().lower()[:10]
        secret = secrets.token_urlsafe(32)
        expires, once = lifetime and now + lifetime, tuple(dict.fromkeys(scopes))
        token = Token(key, name, user, once, now, expires, None, tuple(groups))
        with self._change() as records:
            for old, _ in list(records.values()):
                if (old.ended(now) or now) < now - _KEPT:
                    del records[old.id]
            own = [old for old, _ in records.values() if old.user == user]
            ended = sorted((old for old in own if old.ended(now) is not None), key=lambda old: old.created)
            if len(own) - len(ended) >= _MOST:
                raise ArgumentError(f"{user} has {_MOST} tokens already", hint="revoke those that are not used")
            for old in ended[:-_MOST]:
                del records[old.id]
            records[key] = token, _digest(secret)
        return token, f"{PREFIX}{key}_{secret}"

    def list(self, user: str | None = None) -> list[Token]:
        """Return the tokens of a user, or of all, in the order in which they were made."""
        tokens = [token for token, _ in self._read().values() if user in {None, token.user}]
        return sorted(tokens, key=lambda token: token.created)

    def revoke(self, id: str, *, user: str | None = None, now: float) -> Token:  # noqa: A002
        """Revoke a token for good; it is refused from now on, by every process.

        Parameters
        ----------
        id : str
            Of the token.
        user : str, optional
            Whose it must be.
        now : float

        Raises
        ------
        TokenRefused
            If there is no such token, or it is another user's.
        """
        with self._change() as records:
            token, digest = records.get(id, (None, ""))
            if token is None or user not in {None, token.user}:
                raise refused("unknown", f"There is no token {id[:20]!r}", hint="sciplat token list shows yours")
            if token.revoked is None:
                token = replace(token, revoked=now)
                records[id] = token, digest
        return token

    def check(self, text: str, now: float) -> Token:
        """Return the record of a token that is good.

        Raises
        ------
        TokenRefused
            With the code expired, revoked or unknown. Only who knows the secret learns that it was good once.
        SiteError
            If the file cannot be read.
        """
        match = _TEXT.fullmatch(text)
        key, secret = match.groups() if match else ("", "")
        token, digest = self._read().get(key, (None, _NOBODYS))
        genuine = hmac.compare_digest(_digest(secret), digest)
        if token is None or not genuine:
            raise refused("unknown", "This token is not known here", hint="make one with: sciplat token create")
        if token.revoked is not None:
            raise refused("revoked", f"The token {token.name!r} was revoked on {_day(token.revoked)}")
        ended = token.ended(now)
        if ended is not None:
            hint = "make another one with: sciplat token create"
            raise refused("expired", f"The token {token.name!r} expired on {_day(ended)}", hint=hint)
        return token

    def _read(self) -> dict[str, tuple[Token, str]]:
        """Return the records by id, from memory while the file is the same."""
        try:
            status = self.path.stat()
            stamp = status.st_ino, status.st_mtime_ns, status.st_size
            if stamp != self._stamp:
                self._records = _parse(self.path.read_bytes())
                self._stamp = stamp  # of before the reading: what changed meanwhile is read again
        except FileNotFoundError:
            self._stamp, self._records = None, {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SiteError(f"The token file {self.path} cannot be read", found=f"{error}") from error
        return self._records

    @contextlib.contextmanager
    def _change(self) -> Iterator[dict[str, tuple[Token, str]]]:
        """Give the records to be changed; write them if nothing is raised. One process at a time."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _private(self.path.with_name(f"{self.path.name}.lock")) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # ends when it is closed
            records = dict(self._read())
            yield records
            tokens = [{**asdict(token), "sha256": digest} for token, digest in records.values()]
            content = json.dumps({"version": 1, "tokens": tokens}, indent=1).encode() + b"\n"
            temporary = self.path.with_name(f".{self.path.name}.new")
            temporary.unlink(missing_ok=True)  # of a process that was killed; only we write, by the lock
            with _private(temporary) as file, os.fdopen(file, "wb", closefd=False) as stream:
                stream.write(content)
                stream.flush()
                os.fsync(file)
            temporary.replace(self.path)


@contextlib.contextmanager
def _private(path: Path) -> Iterator[int]:
    """Open a file that its owner alone may use; one that root makes belongs to the folder's owner, the gateway."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.geteuid() == 0:
            folder = path.parent.stat()
            os.fchown(file, folder.st_uid, folder.st_gid)
        yield file
    finally:
        os.close(file)


def is_user_name(name: str) -> bool:
    """Return whether a text can be a user's name: nothing in it could be taken for a path, a flag or a separator."""
    return _USER.fullmatch(name) is not None


def described(token: Token, now: float | None = None) -> dict[str, Any]:
    """Return what people may see of a token: times in ISO 8601, UTC, and its state in words.

    Parameters
    ----------
    token : Token
    now : float, optional
        By default the present.
    """
    ended = token.ended(time.time() if now is None else now)
    if ended is not None:
        state = f"{'expired' if token.revoked is None else 'revoked'} {_date(ended)}"
    else:
        state = "never expires" if token.expires is None else f"until {_date(token.expires)}"
    return {
        "id": token.id,
        "user": token.user,
        "name": token.name,
        "scopes": list(token.scopes),
        "created": iso(token.created),
        "expires": iso(token.expires),
        "state": state,
    }


def refused(code: str, what: str, hint: str = "") -> TokenRefused:
    """Return the error that refuses a token; the codes are those of `TokenRefused`."""
    error = TokenRefused(what, hint=hint)
    error.code = code
    return error


def _check(user: str, name: str, scopes: Sequence[str], lifetime: float | None) -> None:
    if not is_user_name(user):
        hint = "lower-case letters, digits, '_', '.' and '-', at most 32"
        raise ArgumentError("This cannot be a user's name", found=repr(user[:40]), hint=hint)
    if not 1 <= len(name) <= 64 or not name.isprintable():
        raise ArgumentError("A token's name has 1 to 64 printable characters", found=repr(name[:80]))
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        found = ", ".join(repr(scope)[:40] for scope in unknown) or "none"
        raise ArgumentError("A token needs scopes that there are", found=found, hint=", ".join(SCOPES))
    if lifetime is not None and not 0 < lifetime < float("inf"):
        raise ArgumentError("A token's lifetime must be positive", found=f"{lifetime:g} s")


def _parse(content: bytes) -> dict[str, tuple[Token, str]]:
    document: dict[str, Any] = json.loads(content)
    if document["version"] != 1:
        raise ValueError(f"version {document['version']} of the format")
    records = {}
    for record in document["tokens"]:
        digest = str(record.pop("sha256"))
        record["scopes"], record["groups"] = tuple(record["scopes"]), tuple(record.get("groups", ()))
        records[record["id"]] = Token(**record), digest
    return records


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _date(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
