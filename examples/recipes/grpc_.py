"""gRPC over Unix paths, at both ends: servers and channels need no change but the address."""

from __future__ import annotations

import tempfile

import grpc

import pilotstack


def shout(request: bytes, context: grpc.ServicerContext) -> bytes:
    """Answers in capitals."""
    return request.upper()


class Shouter(grpc.GenericRpcHandler):
    """A service; with protoc's output, ``add_..._to_server`` takes its place."""

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """The handler of a method."""
        if details.method != "/agents.Shouter/Shout":
            return None
        return grpc.unary_unary_rpc_method_handler(shout)


async def serve(socket: str, port: int) -> None:
    """Serves until cancelled."""
    with tempfile.TemporaryDirectory() as folder:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Shouter(),))
        server.add_insecure_port(f"unix:{folder}/grpc")
        await server.start()
        async with pilotstack.Driver(socket) as driver, driver.listen(port, path=f"{folder}/grpc"):
            await server.wait_for_termination()


async def ask(socket: str, target: str, message: str) -> str:
    """The answer to a message."""
    with tempfile.TemporaryDirectory() as folder:
        async with pilotstack.Driver(socket) as driver:
            await driver.forward(f"{folder}/agent", target)
            async with grpc.aio.insecure_channel(f"unix:{folder}/agent") as channel:
                call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
                call = channel.unary_unary("/agents.Shouter/Shout")
                return (await call(message.encode())).decode()
