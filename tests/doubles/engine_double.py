"""A double of the Dagger engine's containers: what a module builds is skipped, what it runs is run here.

A container is a record of its variables, mounts and files; a process or a service with the image's
entrypoint is run in this environment, in a folder of its own. No isolation and no images: it shows
what a module asks of the engine, not that the engine does it. That is for the `engine` tests.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import dagger

Files = Callable[[], Awaitable[Path]]


class FileDouble(dagger.File):
    """A file that is computed when it is read."""

    def __init__(self, path: Files) -> None:
        self.path = path

    async def contents(self, **_: Any) -> str:
        return (await self.path()).read_text(encoding="utf-8")


class DirectoryDouble(dagger.Directory):
    """A folder that is computed when something in it is read."""

    def __init__(self, path: Files) -> None:
        self.path = path

    def file(self, path: str) -> FileDouble:
        async def found() -> Path:
            return await self.path() / path

        return FileDouble(found)

    def directory(self, path: str) -> DirectoryDouble:
        return self

    def filter(self, **_: Any) -> DirectoryDouble:
        return self

    def with_directory(self, path: str, directory: dagger.Directory) -> DirectoryDouble:
        return self

    def with_new_file(self, path: str, contents: str) -> DirectoryDouble:
        folder = Path(tempfile.mkdtemp())
        (folder / path).write_text(contents, encoding="utf-8")
        return DirectoryDouble(_now(folder))

    async def exists(self, path: str, **_: Any) -> bool:
        return (await self.path() / path).exists()


def _now(path: Path) -> Files:
    async def found() -> Path:
        return path

    return found


def directory(path: Path) -> DirectoryDouble:
    """Return a folder of this machine as a directory of the engine."""
    return DirectoryDouble(_now(path))


@dataclass
class Processes:
    """Records the packages that were run."""

    run: list[str] = field(default_factory=list)
    variables: list[dict[str, str]] = field(default_factory=list)
    serving: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def stop(self) -> None:
        """End the services."""
        for process in self.serving:
            process.terminate()
            process.wait(30)


@dataclass(frozen=True)
class ContainerDouble(dagger.Container):
    """A record of a container; `with_exec` of its entrypoint runs the command here."""

    processes: Processes
    entrypoint: tuple[str, ...] = ()
    default_args: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    mounts: dict[str, dagger.File | dagger.Directory] = field(default_factory=dict)
    secrets: dict[str, dagger.Secret] = field(default_factory=dict)
    services: dict[str, dagger.Service] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    user: str = ""
    auth: tuple[str, str, dagger.Secret] | None = None
    ran: Files | None = None

    def _same(self, *_: Any, **__: Any) -> Self:
        return self

    from_ = with_mounted_cache = with_workdir = with_directory = with_new_file = _same
    with_exposed_port = without_exposed_port = _same

    def with_entrypoint(self, args: list[str]) -> Self:
        return replace(self, entrypoint=tuple(args))

    def with_default_args(self, args: list[str]) -> Self:
        return replace(self, default_args=tuple(args))

    def with_user(self, name: str) -> Self:
        return replace(self, user=name)

    def with_label(self, name: str, value: str) -> Self:
        return replace(self, labels={**self.labels, name: value})

    def with_env_variable(self, name: str, value: str, **_: Any) -> Self:
        return replace(self, variables={**self.variables, name: value})

    def with_secret_variable(self, name: str, secret: dagger.Secret) -> Self:
        return replace(self, secrets={**self.secrets, name: secret})

    def with_service_binding(self, alias: str, service: dagger.Service) -> Self:
        return replace(self, services={**self.services, alias: service})

    def with_mounted_directory(self, path: str, source: dagger.Directory, **_: Any) -> Self:
        return replace(self, mounts={**self.mounts, path: source})

    def with_mounted_file(self, path: str, source: dagger.File, **_: Any) -> Self:
        return replace(self, mounts={**self.mounts, path: source})

    def with_registry_auth(self, address: str, username: str, secret: dagger.Secret) -> Self:
        return replace(self, auth=(address, username, secret))

    async def publish(self, address: str, **_: Any) -> str:
        return f"{address}@sha256:{'0' * 64}"

    def with_exec(self, args: list[str], *, use_entrypoint: bool = False, **_: Any) -> Self:
        if not use_entrypoint:
            return self  # a build step
        root = Path(tempfile.mkdtemp())
        once = asyncio.Lock()

        async def ran() -> Path:
            async with once:
                if not (root / "done").exists():
                    await self._run(root, args)
                    (root / "done").touch()
            return root

        return replace(self, ran=ran)

    def as_service(self, *, args: list[str], use_entrypoint: bool) -> ServiceDouble:
        assert use_entrypoint
        return ServiceDouble(self, args)

    async def lay(self, root: Path) -> dict[str, str]:
        """Lay out the container's mounts; return its environment."""
        (root / "tmp").mkdir()
        (root / "data").mkdir()
        for target, source in self.mounts.items():
            path = root / target.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            assert isinstance(source, (FileDouble, DirectoryDouble))
            found = await source.path()
            if found.is_dir():
                shutil.copytree(found, path, dirs_exist_ok=True)
            else:
                shutil.copy(found, path)
        _, _, package = self.entrypoint
        self.processes.run.append(package)
        self.processes.variables.append(self.variables)
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAG_")}
        env |= {name: value for name, value in self.variables.items() if name != "PATH"}
        return env | {"RAG_HOME": f"{root}/data", "RAG_EMBEDDING_CACHE": ""}

    async def _run(self, root: Path, args: list[str]) -> None:
        env = await self.lay(root)
        _, _, package = self.entrypoint
        inside = [f"{root}{arg}" if arg.startswith("/") else arg for arg in args]
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", package, *inside],
            env=env,
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
        (root / "stderr").write_text(done.stderr, encoding="utf-8")

    def file(self, path: str, **_: Any) -> FileDouble:
        async def found() -> Path:
            assert self.ran is not None
            return await self.ran() / path.lstrip("/")

        return FileDouble(found)

    def directory(self, path: str, **_: Any) -> DirectoryDouble:
        async def found() -> Path:
            assert self.ran is not None
            return await self.ran() / path.lstrip("/")

        return DirectoryDouble(found)

    async def stderr(self) -> str:
        assert self.ran is not None
        return (await self.ran() / "stderr").read_text(encoding="utf-8")


class ServiceDouble(dagger.Service):
    """A service: the container's command on a free port of this machine."""

    def __init__(self, container: ContainerDouble, args: list[str]) -> None:
        self._container = container
        self._args = args
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = str(probe.getsockname()[1])

    async def start(self) -> str:
        root = Path(tempfile.mkdtemp())
        env = await self._container.lay(root)
        _, _, package = self._container.entrypoint
        assert self._args == ["serve", "--host", "0.0.0.0", "--port", "8080"]
        self._container.processes.serving.append(
            subprocess.Popen(
                [sys.executable, "-m", package, "serve", "--port", self._port],
                env=env,
                cwd=root,
                stderr=subprocess.DEVNULL,
            )
        )
        return "started"

    async def endpoint(self, **_: Any) -> str:
        return f"http://127.0.0.1:{self._port}"


class SecretDouble(dagger.Secret):
    """A secret with its text in memory."""

    def __init__(self, text: str) -> None:
        self._text = text

    async def plaintext(self) -> str:
        return self._text


class _Source:
    def source(self) -> DirectoryDouble:
        return directory(Path())

    def workdir(self, path: str) -> DirectoryDouble:
        assert Path(path, "pyproject.toml").is_file()  # in the folder the function runs in
        return directory(Path(path))


class _Retrieve:
    """`dag.retrieve()`: the module's own object; its coroutines are given as lazy results."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def container(self) -> dagger.Container:
        container: dagger.Container = self._module.container()
        return container

    def index(self, **arguments: Any) -> DirectoryDouble:
        made: dict[str, Path] = {}

        async def found() -> Path:
            if "store" not in made:
                made["store"] = await (await self._module.index(**arguments)).path()
            return made["store"]

        return DirectoryDouble(found)


class EngineDouble:
    """`dag`: containers, folders, the module's source, and the modules `rag` depends on."""

    def __init__(self) -> None:
        self.processes = Processes()

    def container(self) -> ContainerDouble:
        return ContainerDouble(self.processes)

    def directory(self) -> DirectoryDouble:
        return directory(Path())

    def current_module(self) -> _Source:
        return _Source()

    def set_secret(self, name: str, plaintext: str) -> SecretDouble:
        return SecretDouble(plaintext)

    def cache_volume(self, name: str) -> str:
        return name

    def retrieve(self, **configured: Any) -> _Retrieve:
        from rag_retrieve.module import Retrieve

        return _Retrieve(Retrieve(**configured))

    def rerank(self, **configured: Any) -> Any:
        from rag_rerank.module import Rerank

        return Rerank(**configured)

    def augment(self) -> Any:
        from rag_augment.module import Augment

        return Augment()

    def generate(self, **configured: Any) -> Any:
        from rag_generate.module import Generate

        return Generate(**configured)
