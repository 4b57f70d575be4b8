"""Limits on guessing secrets: join tokens, admin tokens of networks and of the registry, recovery
secrets. No clocks here.

The slow hash is computed once for the right token, which is then cached by a quick hash, so a wrong
guess costs one quick hash. Other slow hashes and wrong guesses are limited per source and in total.
A source over its limit is refused even with the right token.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from typing import Final

from pilotstack._resolving import source_of
from pilotstack.registry.model import auth
from pilotstack.registry.model.budgets import Bucket, Buckets
from pilotstack.registry.protocol.errors import Code, Denied

#: Wrong secrets of one source: burst, and per second.
WRONG_BURST: Final = 20.0
WRONG_RATE: Final = 0.1
#: Slow hashes (half a millisecond each) for one source, and in total: burst, and per second.
COSTLY_BURST: Final = 64.0
COSTLY_RATE: Final = 2.0
ALL_BURST: Final = 256.0
ALL_RATE: Final = 50.0
#: Right tokens that are cached.
MAX_RIGHT: Final = 1 << 16
#: Seconds by which the reply to a wrong secret, or to one too many, is delayed.
DELAY: Final = 0.05


class TooManyGuesses(Denied):
    """The source has to wait."""

    def __init__(self, text: str) -> None:
        super().__init__(text, Code.RATE_LIMITED)


class Guesses:
    """Counts guesses and caches right tokens."""

    def __init__(self) -> None:
        self._wrong = Buckets(WRONG_RATE, WRONG_BURST)
        self._costly = Buckets(COSTLY_RATE, COSTLY_BURST)
        self._all = Bucket(ALL_RATE, ALL_BURST, 0.0)
        #: Digests of right tokens, by the hash that is stored of them.
        self._right: OrderedDict[str, bytes] = OrderedDict()

    def check(self, host: str, now: float) -> None:
        """Checks that a source may try another secret.

        Raises:
            Denied: it was wrong too often.
        """
        source, _ = source_of(host)
        if not self._wrong.has(source, now):
            raise TooManyGuesses(f"rate limited: too many wrong tokens from {source}")

    def wrong(self, host: str, now: float) -> None:
        """Counts a wrong secret of a source."""
        self._wrong.take(source_of(host)[0], now)

    def spend(self, host: str, now: float) -> None:
        """Takes a slow hash from the budgets.

        Raises:
            Denied: there were too many lately.
        """
        source, _ = source_of(host)
        if not (self._costly.take(source, now) and self._all.take(now)):
            raise TooManyGuesses("rate limited: too many tokens are checked, try again in a minute")

    def matches(self, token: str, stored: str, host: str, now: float) -> bool:
        """Whether ``stored`` is the hash of ``token``.

        Raises:
            Denied: it takes a slow hash, and there were too many lately.
        """
        digest = hashlib.blake2b(token.encode(), key=stored.encode()[:64], digest_size=16).digest()
        right = self._right.get(stored)
        if right is not None:
            self._right.move_to_end(stored)
            return hmac.compare_digest(digest, right)
        self.spend(host, now)
        if not auth.matches_token(token, stored):
            return False
        self._right[stored] = digest
        if len(self._right) > MAX_RIGHT:
            self._right.popitem(last=False)
        return True

    def sweep(self, now: float) -> None:
        """Drops the sources whose budgets have refilled."""
        self._wrong.sweep(now)
        self._costly.sweep(now)
