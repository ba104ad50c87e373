"""The database server over an unreliable line: statements take time, commits fail both ways, connections are cut."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

from tests.simulation import statements
from tests.simulation.books import Blocked, Session
from tests.simulation.loop import NODE, Node

if TYPE_CHECKING:
    from tests.simulation.world import World

DEADLOCK_S = 1.0
Work = tuple[str, tuple[Any, ...]]  # a statement and its arguments


def gone() -> asyncpg.ConnectionDoesNotExistError:
    return asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")


class Server:
    def __init__(self, world: "World") -> None:
        self.world, self.books = world, world.books
        self.down = False
        self.cut_off: set[str] = set()  # names of nodes that cannot reach it
        self.connections: dict[Connection, None] = {}

    def reachable(self, node: Node | None) -> bool:
        return not self.down and (node is None or node.name not in self.cut_off)

    async def connect(self) -> "Connection":
        node = NODE.get()
        await asyncio.sleep(self.world.chance.uniform(0.002, 0.02))
        if not self.reachable(node):
            raise ConnectionRefusedError("the database cannot be reached")
        connection = Connection(self, node)
        self.connections[connection] = None
        return connection

    def cut(self, node: Node | None = None) -> None:
        """Cuts the connections of one node, or all: what runs is decided both ways, what is open is rolled back."""
        for connection in [connection for connection in self.connections if node is None or connection.node is node]:
            connection.cut()


class Cursor:
    """Looks like an asyncpg cursor; all rows are there."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    async def fetch(self, count: int) -> list[Any]:
        taken, self.rows = self.rows[:count], self.rows[count:]
        return taken


class Connection:
    """Looks like an asyncpg connection to the switch."""

    def __init__(self, server: Server, node: Node | None) -> None:
        self.server, self.node, self.world = server, node, server.world
        self.session: Session | None = None  # of an open transaction
        self.in_transaction = self.closed = False
        self.waiting: dict[asyncio.Future[Any], None] = {}

    def is_closed(self) -> bool:
        return self.closed

    def terminate(self) -> None:
        if not self.closed:
            self.cut()

    async def close(self, timeout: float | None = None) -> None:
        self.terminate()

    def cut(self) -> None:
        self.closed = True
        self.server.connections.pop(self, None)
        session, self.session = self.session, None
        if session is not None:
            self.world.later(self.world.chance.uniform(0, 0.5), session.rollback)
        for future in self.waiting:
            self.world.answer(future, gone(), self.node)
        self.waiting = {}

    async def add_listener(self, channel: str, callback: Any) -> None:
        pass

    def fetch(self, text: str, *arguments: Any) -> Coroutine[Any, Any, Any]:
        return self._ask((text, arguments))

    async def fetchval(self, text: str, *arguments: Any) -> Any:
        rows = await self._ask((text, arguments))
        return rows[0][0] if rows else None

    async def fetchrow(self, text: str, *arguments: Any) -> Any:
        rows = await self._ask((text, arguments))
        return rows[0] if rows else None

    async def cursor(self, text: str, *arguments: Any) -> "Cursor":
        """All it reads is one statement of its own, and what is around it has nothing to commit."""
        inside, self.in_transaction = self.in_transaction, False
        try:
            return Cursor(await self._ask((text, arguments)))
        finally:
            self.in_transaction = inside

    execute = fetch

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        if self.in_transaction:  # a savepoint, whose failure fails the whole
            yield
            return
        self.in_transaction = True
        try:
            yield
        except BaseException:
            session, self.session, self.in_transaction = self.session, None, False
            if session is not None:
                session.rollback()
            raise
        self.in_transaction = False
        if self.session is None:
            if self.closed:
                raise gone()
            return
        await self._ask(None)

    async def _ask(self, work: Work | None) -> Any:
        """One round trip. `work` None: the COMMIT of the open transaction."""
        if self.closed:
            raise asyncpg.InterfaceError("connection is closed")
        world = self.world
        future: asyncio.Future[Any] = world.loop.create_future()
        self.waiting[future] = None
        delay = 0.0005 + 0.0055 * world.chance.random()
        if world.faults.hit("statement_slow"):
            delay += world.chance.uniform(0.1, 4.0)
        inside = self.in_transaction or work is None
        if inside:
            if world.faults.hit("commit_lost_not_applied", 0.5):
                world.later(delay, self.cut)
            elif work is None and world.faults.hit("commit_lost_applied"):
                world.later(delay, self._apply, work, inside, None)
                world.later(delay, self.cut)
            else:
                world.later(delay, self._apply, work, inside, future)
        elif world.faults.hit("commit_lost_not_applied"):
            world.later(delay, self.cut)
        elif world.faults.hit("commit_lost_applied"):
            world.later(delay, self._apply, work, inside, None)
            world.later(delay, self.cut)
            if self.node is not None and world.faults.hit("cut_off_at_answer", 0.3):
                world.later(delay, world.cut_off, self.node, world.chance.uniform(2, 9))
        elif world.faults.hit("commit_lost_applied_later"):  # the old backend is still at it when the client has given up
            world.later(delay + world.chance.choice((0.05, 0.5, 3.0)) * world.chance.random(), self._apply, work, inside, None)
            world.later(delay, self.cut)
        else:
            world.later(delay, self._apply, work, inside, future)
        return await future

    def _apply(self, work: Work | None, inside: bool, future: "asyncio.Future[Any] | None", since: float | None = None) -> None:
        if future is not None and future not in self.waiting:  # cut meanwhile: a server that died did not run it, one that lives may have
            if self.server.down or self.world.chance.random() < 0.5:
                return
            future = None
        world, result = self.world, None
        since = world.loop.now if since is None else since
        try:
            if inside:
                if self.session is None:
                    if self.closed or work is None:
                        return
                    self.session = Session(self.server.books)
                if work is None:
                    session, self.session = self.session, None
                    session.commit()
                else:
                    result = statements.run(self.session, *work)
            else:
                assert work is not None
                session = Session(self.server.books)
                result = statements.run(session, *work)
                session.commit()
        except Blocked as blocked:
            if world.loop.now - since > DEADLOCK_S:
                self._reply(future, asyncpg.DeadlockDetectedError("deadlock detected"))
            else:
                blocked.owner.waiters.append(lambda: world.later(0, self._apply, work, inside, future, since))
            return
        except asyncpg.PostgresError as error:
            result = error
        self._reply(future, result)

    def _reply(self, future: "asyncio.Future[Any] | None", result: Any) -> None:
        if future is not None and self.waiting.pop(future, self) is None:
            if self.node is not None and result:  # something was written, or found: the moment that matters most
                self.world.between(self.node)
            self.world.answer(future, result, self.node)


class Pool:
    """Looks like an asyncpg pool; keeps a few connections."""

    def __init__(self, server: Server, size: int) -> None:
        self.server, self.size, self.idle = server, size, []  # type: ignore[var-annotated]

    async def _run(self, name: str, text: str, arguments: tuple[Any, ...]) -> Any:
        connection = self._idle() or await self.server.connect()
        try:
            return await getattr(connection, name)(text, *arguments)
        finally:
            self._back(connection)

    async def fetch(self, text: str, *arguments: Any) -> Any:
        return await self._run("fetch", text, arguments)

    async def fetchval(self, text: str, *arguments: Any) -> Any:
        return await self._run("fetchval", text, arguments)

    async def fetchrow(self, text: str, *arguments: Any) -> Any:
        return await self._run("fetchrow", text, arguments)

    async def execute(self, text: str, *arguments: Any) -> Any:
        return await self._run("execute", text, arguments)

    @asynccontextmanager
    async def acquire(self, timeout: float | None = None) -> AsyncIterator[Connection]:
        connection = self._idle() or await self.server.connect()
        try:
            yield connection
        finally:
            self._back(connection)

    def _idle(self) -> Connection | None:
        while self.idle and self.idle[-1].closed:
            self.idle.pop()
        return self.idle.pop() if self.idle else None

    def _back(self, connection: Connection) -> None:
        if not connection.closed and not connection.in_transaction and not connection.waiting:
            self.idle.append(connection)
        else:
            connection.terminate()

    async def close(self) -> None:
        for connection in self.idle:
            connection.terminate()
