"""The door of the service: who calls, how often, how much at once; counted and logged for every kind of call alike."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterable, Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import grpc

from protos.transport import AUTHORIZATION, BEARER
from server.log import log_event
from server.metrics import Metrics
from server.serve_options import Limits
from server.tokens import TokenFile

UNARY_TIMEOUT_S = 60.0
_PEERS_REMEMBERED = 10_000
_TELL_AGAIN_AFTER_S = 60.0
"""A peer above its limits gets one line of the log in so long: who asks without end shall not fill the disk."""
_OPEN = "/grpc.health.v1.Health/"
"""Health is for probes, which hold no token; it answers while the server stops."""

Context = grpc.aio.ServicerContext[Any, Any]
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_ORDINARY = {grpc.StatusCode.OK, grpc.StatusCode.CANCELLED, grpc.StatusCode.NOT_FOUND}
"""Not found is how a device learns that there is no newer root."""

PEER: ContextVar[str] = ContextVar("peer", default="")
"""Whose call the running task answers: a token's name, a certificate's, or an address."""


@dataclass
class _Peer:
    tokens: float
    seen_s: float
    active: int = 0
    told_s: float = -math.inf


class Guard(grpc.aio.ServerInterceptor):
    """Lets a call in, or ends it: UNAUTHENTICATED without a valid token, RESOURCE_EXHAUSTED above the limits."""

    def __init__(self, limits: Limits, tokens: TokenFile | None, metrics: Metrics) -> None:
        self._limits, self._tokens, self._metrics = limits, tokens, metrics
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self._closed = False

    def close(self) -> None:
        """From now on every new call but health's ends with UNAVAILABLE; those that run go on."""
        self._closed = True

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handler, whichever of the four kinds it is."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        ends = (handler.request_streaming, handler.response_streaming)
        kind = "_".join("stream" if streams else "unary" for streams in ends)
        make: Any = getattr(grpc, f"{kind}_rpc_method_handler")
        inner = self._guarded(handler_call_details.method, getattr(handler, kind), handler.response_streaming)
        return make(inner, handler.request_deserializer, handler.response_serializer)  # type: ignore[no-any-return]

    def _guarded(self, method: str, behaviour: Callable[..., Any], streams: bool) -> Callable[..., Any]:
        async def guarded(request: Any, context: Context) -> Any:
            name = method.rsplit("/", 1)[-1]
            started_s, code, who = time.monotonic(), grpc.StatusCode.OK, _peer_of(context)
            self._metrics.active.labels(name).inc()
            try:
                if self._closed and not method.startswith(_OPEN):
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping; try again later")
                who = await self._identified(method, who, context)
                peer = await self._admitted(who, context)
                peer.active += 1
                PEER.set(who)
                try:
                    return await _run(behaviour, request, context, None if streams else UNARY_TIMEOUT_S)
                finally:
                    peer.active -= 1
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except grpc.aio.AbortError:
                code = _code_of(context)
                raise
            except TimeoutError:
                code = grpc.StatusCode.DEADLINE_EXCEEDED
                await context.abort(code, f"not answered within {UNARY_TIMEOUT_S:.0f} s; try again")
            except Exception:
                code = grpc.StatusCode.INTERNAL
                logging.getLogger("feddsv.distribution").exception("fault")
                await context.abort(code, "internal error; the server's log has it")
            finally:
                self._metrics.active.labels(name).dec()
                self._record(name, code, who, time.monotonic() - started_s)

        return guarded

    async def _identified(self, method: str, who: str, context: Context) -> str:
        """The peer's name; ends the call when it has to show a token and does not.

        Such a call counts for the certificate or address that ``who`` names. The others do not: many devices, each
        with its token, may share an address.
        """
        if self._tokens is None or method.startswith(_OPEN):
            return who
        given = str(dict(context.invocation_metadata() or ()).get(AUTHORIZATION, ""))
        found = self._tokens.name_of(given.removeprefix(BEARER)) if given.startswith(BEARER) else None
        if found is None:
            await self._admitted(who, context)
            self._metrics.refused.labels("token").inc()
            reason = "this token is not known here" if given else "this server asks for a token"
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, reason)
        return str(found)

    async def _admitted(self, who: str, context: Context) -> _Peer:
        now_s = time.monotonic()
        peer = self._peers.setdefault(who, _Peer(self._limits.burst_calls, now_s))
        self._peers.move_to_end(who)
        self._forget_idle_peers()
        refill = (now_s - peer.seen_s) * self._limits.calls_per_s
        peer.tokens, peer.seen_s = min(self._limits.burst_calls, peer.tokens + refill), now_s
        if peer.tokens < 1:
            self._metrics.refused.labels("rate").inc()
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls from this peer; ask less often")
        peer.tokens -= 1
        if peer.active >= self._limits.concurrent_calls:
            self._metrics.refused.labels("concurrency").inc()
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls at once from this peer; wait")
        return peer

    def _forget_idle_peers(self) -> None:
        while len(self._peers) > _PEERS_REMEMBERED:
            who, peer = self._peers.popitem(last=False)
            if peer.active:
                self._peers[who] = peer
                return

    def _record(self, method: str, code: grpc.StatusCode, who: str, seconds: float) -> None:
        self._metrics.calls.labels(method, code.name).inc()
        self._metrics.seconds.labels(method).observe(seconds)
        peer = self._peers.get(who)
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and peer:
            now_s = time.monotonic()
            if now_s - peer.told_s < _TELL_AGAIN_AFTER_S:
                return
            peer.told_s = now_s
        level = logging.INFO if code in _ORDINARY else logging.WARNING
        log_event(level, "call", method=method, code=code.name, peer=who, seconds=round(seconds, 4))


async def _run(behaviour: Callable[..., Any], request: Any, context: Context, timeout_s: float | None) -> Any:
    result = behaviour(request, context)
    if isinstance(result, AsyncIterable):
        async for message in result:
            await context.write(message)
        return None
    return await asyncio.wait_for(result, timeout_s)


def _peer_of(context: Context) -> str:
    """A certificate's name, or ``ipv4:127.0.0.1:4711`` without its port: a peer's next connection has another."""
    for name in context.auth_context().get("x509_common_name", ()):
        return bytes(name).decode("utf-8", "replace")
    return unquote(str(context.peer())).rpartition(":")[0]


def _code_of(context: Context) -> grpc.StatusCode:
    code: Any = context.code()
    return code if isinstance(code, grpc.StatusCode) else _CODES.get(code, grpc.StatusCode.UNKNOWN)
