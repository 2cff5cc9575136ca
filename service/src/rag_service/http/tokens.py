"""Access tokens of an OpenID Connect provider (JWT, RFC 9068), beside API keys.

The provider's keys come from its discovery document, when the first token arrives, and again after an
hour or for a key id that is new. A flood of tokens with made-up key ids asks the provider once in
`RETRY_S` seconds, and each token that was found valid is verified once.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx

from rag_kit.errors import StepError
from rag_kit.origins import is_loopback

from ..access import groups_in
from ..settings import ServiceSettings
from .context import Principal

if TYPE_CHECKING:
    import jwt

# only signatures by a key pair: an HMAC keyed with the public key would pass as one otherwise
ALGORITHMS = [
    *(f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512)),
    "EdDSA",
]
DISCOVERY = "/.well-known/openid-configuration"
FRESH_S = 3600.0  # seconds the provider's keys are used before they are asked for again
RETRY_S = 30.0  # seconds between two requests for its keys
FETCH_S = 5.0  # seconds one of its responses may take
FETCH_BYTES = 1 << 20  # of one of its responses
LEEWAY_S = 30.0  # that its clock may differ from ours
REMEMBERED = 4096  # tokens that were verified


class Tokens:
    """Verifies tokens of one provider: signature, issuer, audience and time.

    Args:
        settings: With `oidc_issuer` and `oidc_audience`.
        clock: Seconds, for the age of the provider's keys.
    """

    def __init__(
        self, settings: ServiceSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._issuer = settings.oidc_issuer or ""
        self._audience, self._claim = settings.oidc_audience, settings.oidc_groups_claim
        self._writers = frozenset(settings.oidc_write_groups)
        self._clock = clock
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._failure = ""
        self._lock = asyncio.Lock()
        self._known: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()

    async def prepare(self, token: str) -> None:
        """Get the provider's keys if this token needs them; a failure is told by `find`."""
        if self._remembered(token) or not self._wants_keys(token):
            return
        async with self._lock:
            if self._wants_keys(token):  # another request may have got them meanwhile
                self._tried_at = self._clock()
                await self._fetch()

    def find(self, token: str) -> Principal:
        """Return whose token it is.

        Raises:
            StepError: `unauthenticated`, it is not valid; `not_ready`, the provider gave no keys.
        """
        import jwt

        remembered = self._remembered(token)
        if remembered:
            return remembered
        if not self._keys:
            raise StepError("not_ready", f"tokens cannot be verified now: {self._failure}")
        try:
            claims = jwt.decode(
                token,
                self._key(token),
                algorithms=ALGORITHMS,
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise StepError("unauthenticated", f"the token is not valid: {error}") from None
        principal = self._principal(claims)
        self._known[_digest(token)] = principal, float(claims["exp"])
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return principal

    def _remembered(self, token: str) -> Principal | None:
        principal, ends = self._known.get(_digest(token), (None, 0.0))
        return principal if time.time() < ends + LEEWAY_S else None

    def _key(self, token: str) -> jwt.PyJWK:
        import jwt

        key = self._keys.get(_key_id(token))
        if key is None and _key_id(token) is None and len(self._keys) == 1:
            [key] = self._keys.values()
        if key is None:
            raise jwt.InvalidKeyError(f"{self._issuer} has no key with its key id")
        return key

    def _wants_keys(self, token: str) -> bool:
        now = self._clock()
        if now - self._tried_at < RETRY_S:
            return False
        named = _key_id(token)
        new = named is not None and named not in self._keys
        return not self._keys or new or now - self._fetched_at > FRESH_S

    def _principal(self, claims: dict[str, Any]) -> Principal:
        value: Any = claims
        for part in self._claim.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        groups = groups_in([value] if isinstance(value, str) else value)
        return Principal(
            name=f"oidc:{claims['sub']}", write=bool(groups & self._writers), groups=groups
        )

    async def _fetch(self) -> None:
        """Ask for the keys; those of before stay when that fails."""
        import jwt

        try:
            async with httpx.AsyncClient(timeout=FETCH_S, follow_redirects=False) as client:
                found = await _json(client, self._issuer.rstrip("/") + DISCOVERY)
                if found.get("issuer") != self._issuer:
                    raise ValueError(f"its discovery names the issuer {found.get('issuer')!r}")
                keys = jwt.PyJWKSet.from_dict(await _json(client, _checked(found.get("jwks_uri"))))
        except (httpx.HTTPError, ValueError, jwt.PyJWTError, TimeoutError) as error:
            self._failure = f"{self._issuer}: {error or type(error).__name__}"
            return
        self._keys = {key.key_id: key for key in keys.keys}
        self._fetched_at = self._clock()
        self._known.clear()  # a key that was withdrawn


async def _json(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """Return an object of the provider; raises ValueError for anything else."""
    body = b""
    async with asyncio.timeout(FETCH_S), client.stream("GET", url) as response:
        response.raise_for_status()
        async for part in response.aiter_bytes():
            body += part
            if len(body) > FETCH_BYTES:
                raise ValueError(f"{url} has more than {FETCH_BYTES} bytes")
    found = httpx.Response(200, content=body).json()
    if not isinstance(found, dict):
        raise ValueError(f"{url} is no JSON object")
    return found


def _checked(url: Any) -> str:
    """Return the address of the keys; raises ValueError where others could change them on the way."""
    parsed = httpx.URL(url) if isinstance(url, str) else None
    if parsed is None or not (parsed.scheme == "https" or is_loopback(parsed.host)):
        raise ValueError(f"its keys are not at an https address but at {url!r}")
    return str(parsed)


def is_token(credential: str) -> bool:
    """Whether a credential has the form of a signed JWT: three parts."""
    return credential.count(".") == 2 and credential.startswith("ey")


def _key_id(token: str) -> str | None:
    import jwt

    try:
        found = jwt.get_unverified_header(token).get("kid")
    except jwt.PyJWTError:
        return None
    return found if isinstance(found, str) else None


def _digest(token: str) -> bytes:
    return hashlib.blake2s(token.encode(errors="surrogateescape")).digest()
