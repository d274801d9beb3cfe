r"""What every request passes."""
import ipaddress
import json
from typing import Any, Awaitable, Callable, Dict, Iterable, Optional
from urllib.parse import urlsplit

Message = Dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

METHODS = ('GET', 'HEAD')
#: Nothing is fetched from elsewhere and no script is run but our own, whatever a label says; no
#: other page may embed what is here, and no browser keeps it.
HEADERS = {
    'Content-Security-Policy': "default-src 'none'; script-src 'self'; style-src 'self'; "
                               "connect-src 'self'; img-src data:; base-uri 'none'; "
                               "form-action 'self'; frame-ancestors 'none'",
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Resource-Policy': 'same-origin',
    'X-Content-Type-Options': 'nosniff',
    'X-Frame-Options': 'DENY',
    'Referrer-Policy': 'no-referrer',
    'Cache-Control': 'no-store',
}


class Guard:
    r"""An ASGI application in front of another one, which lets only requests through that read,
    and that name this machine: by an address, or by a known name. So a foreign page whose name was
    made to lead here (*DNS rebinding*) gets nothing. Every answer gets :data:`HEADERS`.

    Args:
        app (Callable): The application behind.
        names (Iterable[str], optional): The names of this machine beside ``localhost``.
            (default: none)
    """
    def __init__(self, app: Application, names: Iterable[str] = ()):
        self.app = app
        self.names = frozenset(['localhost', *(name.lower() for name in names)])

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            await self.app(scope, receive, send)
            return
        is_head = scope['method'] == 'HEAD'

        async def guarded(message: Message) -> None:
            if message['type'] == 'http.response.start':
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, 'headers': [*message.get('headers', []), *own]}
            elif is_head:
                message = {**message, 'body': b''}
            await send(message)

        host = dict(scope['headers']).get(b'host', b'').decode('latin-1')
        if not self._is_here(host):
            await _refuse(guarded, 400, f"Unknown host {host!r} (expected an address, or one of "
                                        f'{sorted(self.names)})')
        elif scope['method'] not in METHODS:
            await _refuse(guarded, 405, f'Unknown method {scope["method"]!r} (expected one of '
                                        f'{list(METHODS)})', {'allow': ', '.join(METHODS)})
        else:
            await self.app({**scope, 'method': 'GET'}, receive, guarded)

    def _is_here(self, host: str) -> bool:
        try:
            name = urlsplit(f'//{host}').hostname or ''
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True  # What a browser asks for by its address is what it shows.


async def _refuse(send: Send, status: int, detail: str,
                  headers: Optional[Dict[str, str]] = None) -> None:
    body = json.dumps({'detail': detail}).encode()
    headers = {'content-type': 'application/json', 'content-length': str(len(body)),
               **(headers or {})}
    await send({'type': 'http.response.start', 'status': status,
                'headers': [(name.encode(), value.encode()) for name, value in headers.items()]})
    await send({'type': 'http.response.body', 'body': body})
