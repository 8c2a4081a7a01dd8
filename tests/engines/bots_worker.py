# SPDX-License-Identifier: Apache-2.0
"""Plain worker of the Remote Workers API, as BuildGrid has it: takes leases, and runs each Action in a directory.

It knows nothing of bitzel, and does no more than the specification asks: it drops node properties, and hardlinks inputs
read-only from a cache, as several engines do. Runs with the Python of BuildGrid's environment, which has the messages.

usage: bots_worker.py ADDRESS DIRECTORY SLOTS [null]

With "null" it runs nothing, and reports success.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import grpc
from buildgrid._protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from buildgrid._protos.build.bazel.remote.execution.v2 import remote_execution_pb2_grpc as reapi_grpc
from buildgrid._protos.google.bytestream import bytestream_pb2, bytestream_pb2_grpc
from buildgrid._protos.google.devtools.remoteworkers.v1test2 import bots_pb2, bots_pb2_grpc, worker_pb2
from buildgrid._protos.google.rpc import code_pb2

MESSAGE_BYTES = 1 << 20
BATCH_BYTES = 3 << 20
# The server answers within 80 % of the deadline; the rest is for machines with much else to do.
POLL_SECONDS = 100
HEARTBEAT_SECONDS = 20
ATTEMPTS = 5
DIRECTORY_MODE = 0o755


class Store:
    """Client of a content-addressable store, with a cache of files on disk."""

    def __init__(self, channel: grpc.Channel, files: Path) -> None:
        self.cas = reapi_grpc.ContentAddressableStorageStub(channel)
        self.stream = bytestream_pb2_grpc.ByteStreamStub(channel)
        self.files = files
        self.lock = threading.Lock()

    def read(self, digest: reapi.Digest) -> bytes:
        """Reads a blob as a stream."""
        request = bytestream_pb2.ReadRequest(resource_name=f"blobs/{digest.hash}/{digest.size_bytes}")
        return b"".join(response.data for response in self.stream.Read(request))

    def read_all(self, digests: list[reapi.Digest]) -> dict[str, bytes]:
        """Reads small blobs in batches and large ones as streams, by hash."""
        found: dict[str, bytes] = {}
        batch: list[reapi.Digest] = []
        for digest in [*digests, None]:
            if digest is not None and digest.size_bytes > MESSAGE_BYTES:
                found[digest.hash] = self.read(digest)
                continue
            if batch and (
                digest is None or sum(d.size_bytes for d in batch) + digest.size_bytes > BATCH_BYTES
            ):
                answer = self.cas.BatchReadBlobs(reapi.BatchReadBlobsRequest(digests=batch))
                for response in answer.responses:
                    if response.status.code != code_pb2.OK:
                        raise MissingBlobError(response.digest)
                    found[response.digest.hash] = response.data
                batch = []
            if digest is not None:
                batch.append(digest)
        return found

    def message(self, kind: type, digest: reapi.Digest):
        """Reads and decodes a message."""
        return kind.FromString(self.read(digest))

    def write(self, blobs: dict[str, bytes]) -> None:
        """Writes the blobs that the store lacks."""
        digests = [reapi.Digest(hash=key, size_bytes=len(data)) for key, data in blobs.items()]
        answer = self.cas.FindMissingBlobs(reapi.FindMissingBlobsRequest(blob_digests=digests))
        for digest in answer.missing_blob_digests:
            self._write(digest, blobs[digest.hash])

    def _write(self, digest: reapi.Digest, data: bytes) -> None:
        name = f"uploads/{uuid.uuid4()}/blobs/{digest.hash}/{digest.size_bytes}"

        def requests():
            for offset in range(0, max(len(data), 1), MESSAGE_BYTES):
                chunk = data[offset : offset + MESSAGE_BYTES]
                yield bytestream_pb2.WriteRequest(
                    resource_name=name,
                    write_offset=offset,
                    data=chunk,
                    finish_write=offset + len(chunk) == len(data),
                )

        self.stream.Write(requests())

    def fetch(self, nodes: list[reapi.FileNode]) -> None:
        """Fills the cache of files."""
        with self.lock:
            missing = {node.digest.hash: node.digest for node in nodes if not self.cached(node).exists()}
            contents = self.read_all(list(missing.values()))
            for node in nodes:
                path = self.cached(node)
                if not path.exists():
                    partial = path.with_suffix(".partial")
                    partial.write_bytes(contents[node.digest.hash])
                    partial.chmod(0o555 if node.is_executable else 0o444)
                    partial.rename(path)

    def cached(self, node: reapi.FileNode) -> Path:
        """Path of a file in the cache."""
        return self.files / f"{node.digest.hash}{'-x' if node.is_executable else ''}"


class MissingBlobError(Exception):
    """The store lacks a blob."""


def digest_of(data: bytes) -> reapi.Digest:
    return reapi.Digest(hash=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


class Worker:
    """One slot: a session that has one lease at a time."""

    def __init__(self, address: str, directory: Path, slot: int, *, is_null: bool) -> None:
        self.is_null = is_null
        options = [("grpc.max_receive_message_length", -1)]
        self.channel = grpc.insecure_channel(address, options=options)
        self.bots = bots_pb2_grpc.BotsStub(self.channel)
        files = directory / "files"
        files.mkdir(parents=True, exist_ok=True)
        self.store = Store(self.channel, files)
        self.directory = directory / f"slot-{slot}"
        self.session = bots_pb2.BotSession(
            bot_id=f"plain-{slot}",
            status=bots_pb2.OK,
            worker=worker_pb2.Worker(devices=[worker_pb2.Device(handle="this")]),
        )

    def serve(self) -> None:
        """Takes leases for ever."""
        request = bots_pb2.CreateBotSessionRequest(parent="", bot_session=self.session)
        self.session = self.bots.CreateBotSession(request, timeout=POLL_SECONDS, wait_for_ready=True)
        while True:
            for lease in self.session.leases:
                if lease.state in (bots_pb2.PENDING, bots_pb2.ACTIVE):
                    self.run_with_heartbeat(lease)
            self.update()

    def update(self) -> None:
        request = bots_pb2.UpdateBotSessionRequest(name=self.session.name, bot_session=self.session)
        for attempt in range(ATTEMPTS):
            try:
                self.session = self.bots.UpdateBotSession(request, timeout=POLL_SECONDS)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED or attempt + 1 == ATTEMPTS:
                    raise
            else:
                return

    def run_with_heartbeat(self, lease: bots_pb2.Lease) -> None:
        """Runs a lease, and tells the server meanwhile that this worker is there."""
        if self.is_null:
            lease.result.Pack(reapi.ActionResult())
            lease.state = bots_pb2.COMPLETED
            return
        done = threading.Event()
        outcome = bots_pb2.Lease()
        outcome.CopyFrom(lease)

        def run() -> None:
            try:
                outcome.result.Pack(self.execute(lease))
            except Exception as error:
                outcome.status.code = code_pb2.INTERNAL
                outcome.status.message = f"{type(error).__name__}: {error}"
                print(outcome.status.message, file=sys.stderr, flush=True)
            outcome.state = bots_pb2.COMPLETED
            done.set()

        threading.Thread(target=run, daemon=True).start()
        while not done.wait(HEARTBEAT_SECONDS):
            lease.state = bots_pb2.ACTIVE
            self.update()
        del self.session.leases[:]
        self.session.leases.append(outcome)

    def execute(self, lease: bots_pb2.Lease) -> reapi.ActionResult:
        action = reapi.Action()
        if lease.payload.Is(action.DESCRIPTOR):
            lease.payload.Unpack(action)
        else:
            digest = reapi.Digest()
            lease.payload.Unpack(digest)
            action = self.store.message(reapi.Action, digest)
        command = self.store.message(reapi.Command, action.command_digest)
        if self.directory.exists():
            shutil.rmtree(self.directory)
        self.stage(action.input_root_digest)
        for output in command.output_paths:
            (self.directory / output).parent.mkdir(parents=True, exist_ok=True)
        finished = subprocess.run(
            list(command.arguments),
            cwd=self.directory / command.working_directory,
            env={variable.name: variable.value for variable in command.environment_variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        result = reapi.ActionResult(
            exit_code=finished.returncode, stdout_raw=finished.stdout, stderr_raw=finished.stderr
        )
        blobs: dict[str, bytes] = {}
        for output in command.output_paths:
            self.collect(output, result, blobs)
        self.store.write(blobs)
        shutil.rmtree(self.directory)
        return result

    def stage(self, root: reapi.Digest) -> None:
        """Makes the input root of hardlinks."""
        directories: dict[str, reapi.Directory] = {}
        level = [root]
        while level:
            unknown = {digest.hash: digest for digest in level if digest.hash not in directories}
            for key, data in self.store.read_all(list(unknown.values())).items():
                directories[key] = reapi.Directory.FromString(data)
            level = [
                child.digest
                for key in unknown
                for child in directories[key].directories
                if child.digest.hash not in directories
            ]
        self.store.fetch([node for directory in directories.values() for node in directory.files])
        pending = [(self.directory, root.hash)]
        while pending:
            path, key = pending.pop()
            path.mkdir(mode=DIRECTORY_MODE)
            for node in directories[key].files:
                os.link(self.store.cached(node), path / node.name)
            for node in directories[key].symlinks:
                os.symlink(node.target, path / node.name)
            pending += [(path / node.name, node.digest.hash) for node in directories[key].directories]

    def collect(self, output: str, result: reapi.ActionResult, blobs: dict[str, bytes]) -> None:
        """Adds an output to the result."""
        path = self.directory / output
        if path.is_symlink():
            result.output_symlinks.add(path=output, target=os.readlink(path))
        elif path.is_file():
            data = path.read_bytes()
            digest = digest_of(data)
            blobs[digest.hash] = data
            result.output_files.add(path=output, digest=digest, is_executable=os.access(path, os.X_OK))
        elif path.is_dir():
            tree = reapi.Tree()
            tree.root.CopyFrom(self.directory_of(path, tree, blobs))
            data = tree.SerializeToString(deterministic=True)
            digest = digest_of(data)
            blobs[digest.hash] = data
            result.output_directories.add(path=output, tree_digest=digest)

    def directory_of(self, path: Path, tree: reapi.Tree, blobs: dict[str, bytes]) -> reapi.Directory:
        directory = reapi.Directory()
        for child in sorted(path.iterdir(), key=lambda child: child.name.encode()):
            if child.is_symlink():
                directory.symlinks.add(name=child.name, target=os.readlink(child))
            elif child.is_dir():
                message = self.directory_of(child, tree, blobs)
                tree.children.append(message)
                data = message.SerializeToString(deterministic=True)
                directory.directories.add(name=child.name, digest=digest_of(data))
            else:
                data = child.read_bytes()
                digest = digest_of(data)
                blobs[digest.hash] = data
                executable = bool(child.stat().st_mode & 0o100)
                directory.files.add(name=child.name, digest=digest, is_executable=executable)
        return directory


def main() -> None:
    address, directory, slots = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    is_null = "null" in sys.argv[4:]
    workers = [Worker(address, directory, slot, is_null=is_null) for slot in range(slots)]
    threads = [threading.Thread(target=worker.serve, daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A session has ended with an error.
    sys.exit(1)


main()
