"""Cluster and term of a registry, kept beside its store.

The cluster identifies one history of a state, from the first start of an empty registry. The term
counts the promotions of standbys in it, which tells a replaced primary from its successor.
"""

from __future__ import annotations

import secrets
import zlib
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pilotstack import _files
from pilotstack.errors import InternalError

if TYPE_CHECKING:
    from pathlib import Path


#: Random bytes in a cluster's name.
_CLUSTER: Final = 8
#: Bytes of the file.
_MAX_FILE: Final = 64 << 10
#: Limit of terms in a file; promotions continue from any term that was accepted.
_MAX_KEPT: Final = 1 << 32


class _Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    term: int = 0
    is_standby: bool = False
    cluster: str = ""
    #: It has served as the primary, so it may have changes that no other registry has. Unknown in
    #: files of earlier versions.
    has_led: bool | None = None
    #: The term of the registry that replaced this one; 0 if none did.
    replaced_by: int = 0
    #: The primary that it followed last, and how that is authenticated: ``None`` for plain TCP,
    #: empty for the system's trust store, otherwise pins separated by commas.
    primary: str = ""
    primary_trust: str | None = None
    #: CRC-32 of the file without this.
    sum: str = ""


class Term:
    """Cluster and term of this registry.

    Args:
        path: the file they are kept in; ``None`` for none.

    Raises:
        InternalError: the file is corrupt.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._kept = _Kept()
        self._is_new = True
        #: The last change could not be written yet.
        self._is_owed = False
        if path is None:
            return
        try:
            kept = msgspec.json.decode(_files.read_regular(path, _MAX_FILE), type=_Kept)
            # Files of earlier versions name no cluster and have no sum.
            if (kept.cluster or kept.sum) and kept.sum != _sum(kept):
                raise ValueError("its checksum is wrong")
            if not 0 <= kept.term < _MAX_KEPT:
                raise ValueError(f"there is no term {kept.term}")
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise InternalError(
                f"the term in {path} cannot be read: {error}",
                hint="restore it from a backup with the store, or remove it to begin with term 0",
            ) from error
        self._kept = kept
        self._is_new = False

    @property
    def kept(self) -> _Kept:
        """The whole record; another object whenever anything changes."""
        return self._kept

    @property
    def number(self) -> int:
        """The term."""
        return self._kept.term

    @property
    def cluster(self) -> str:
        """The cluster; empty for a standby that has copied nothing yet."""
        return self._kept.cluster

    @property
    def replaced_by(self) -> int:
        """The term of the registry that replaced this one; 0 if none did."""
        return self._kept.replaced_by

    @property
    def has_led(self) -> bool:
        """Whether this registry may have changes that no other has."""
        kept = self._kept
        return not kept.is_standby if kept.has_led is None else kept.has_led

    @property
    def last_primary(self) -> tuple[str, str | None]:
        """``host:port`` of the primary that this one followed last, and how it is authenticated."""
        return self._kept.primary, self._kept.primary_trust

    def lead(self, *, is_forced: bool = False) -> bool:
        """Starts serving as the primary; returns whether that is a promotion.

        Args:
            is_forced: promote a registry that was replaced, too.

        Raises:
            OSError: the term cannot be kept.
        """
        kept = self._kept
        self._is_new = False
        is_promotion = kept.is_standby or (is_forced and kept.replaced_by > kept.term)
        self._keep(
            term=max(kept.term, kept.replaced_by) + 1 if is_promotion else kept.term,
            is_standby=False,
            cluster=kept.cluster or secrets.token_hex(_CLUSTER),
            has_led=True,
            replaced_by=0 if is_promotion else kept.replaced_by,
        )
        return is_promotion

    def follow(self, primary: str, trust: str | None) -> None:
        """Starts following a primary.

        Raises:
            OSError: the file cannot be written.
        """
        has_led = self.has_led and not self._is_new
        self._is_new = False
        self._keep(is_standby=True, has_led=has_led, primary=primary, primary_trust=trust)

    def adopt(self, cluster: str, term: int) -> None:
        """Records that the state is a copy of a primary's.

        Raises:
            OSError: the file cannot be written.
        """
        self._keep(
            cluster=cluster or self.cluster,
            term=term,
            is_standby=True,
            has_led=False,
            replaced_by=0,
        )

    def replace(self, term: int) -> None:
        """Records that another registry serves, in a higher term.

        Raises:
            OSError: the file cannot be written; the record holds until the end of the process.
        """
        self._keep(replaced_by=term)

    def settle(self) -> None:
        """Writes a change that could not be written before.

        Raises:
            OSError: it still cannot be.
        """
        self._keep()

    def _keep(self, **members: Any) -> None:
        kept = msgspec.structs.replace(self._kept, **members, sum="")
        if kept != msgspec.structs.replace(self._kept, sum=""):
            self._kept = msgspec.structs.replace(kept, sum=_sum(kept))
            self._is_owed = self._path is not None
        if self._is_owed and self._path is not None:
            _files.replace(self._path, [msgspec.json.encode(self._kept)])
            self._is_owed = False


def _sum(kept: _Kept) -> str:
    return f"{zlib.crc32(msgspec.json.encode(msgspec.structs.replace(kept, sum=''))):08x}"
