"""`rrnode init|start`: making a node and running it."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rrnode.cli import show
from rrnode.cli.context import JsonFlag, Session, emit, progress, say, session
from rrnode.errors import UserError

if TYPE_CHECKING:
    import subprocess

    from rrnode.config import Settings

START_WITHIN = 60.0  # seconds for a node in the background to answer: its chain may have blocks to read first

SetFlag = Annotated[list[str] | None, typer.Option("--set", help="Any setting: --set fees.ppm=50. May be repeated.")]
ListenFlag = Annotated[list[str] | None, typer.Option(help="Where to listen, e.g. /ip4/0.0.0.0/tcp/9780.")]
KeepFlag = Annotated[list[str] | None, typer.Option(help="An address to stay connected with; ends in /p2p/<peer id>.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the top level."""
    app.command()(init)
    app.command()(start)


def gather(**named: Any) -> dict[str, str]:
    """Flags as configuration overrides: `section__key=value`; None means not given. `set_` holds `section.key=value`s.

    Raises:
        UserError: a `--set` that is no assignment.
    """
    flags: dict[str, str] = {}
    for assignment in named.pop("set_", None) or ():
        name, equals, value = assignment.partition("=")
        if not equals or "." not in name:
            raise UserError(f"{assignment[:80]!r} sets nothing", "write it like: --set fees.ppm=50")
        flags[name.strip()] = value.strip()
    for place, value in named.items():
        if value is None or value == []:
            continue
        text = (
            ",".join(value)
            if isinstance(value, list)
            else str(value).lower()
            if isinstance(value, bool)
            else str(value)
        )
        flags[place.replace("__", ".")] = text
    return flags


def read_settings(now: Session, flags: Mapping[str, str]) -> "Settings":
    """The configuration of an existing node. Raises UserError when `--network` names another than the node's."""
    from rrnode.config import load

    settings = load(now.data_dir, environment=os.environ, flags=flags)
    if now.network and now.network != settings.node.network:
        raise UserError(
            f"the node in {now.data_dir} is on {settings.node.network}, not on {now.network}",
            "leave --network out, or choose another directory with --datadir",
        )
    return settings


# --- init -------------------------------------------------------------------------------------------------------------


def init(
    context: typer.Context,
    restore: Annotated[
        bool, typer.Option("--restore", help="From 24 words that you have; asked for, or from a pipe.")
    ] = False,
    operator: Annotated[str | None, typer.Option(help="A name for whoever runs this node; peers see it.")] = None,
    route: Annotated[
        bool | None, typer.Option("--route", help="Accept connections and carry payments for others.")
    ] = None,
    listen: ListenFlag = None,
    keep: KeepFlag = None,
    rpc: Annotated[str | None, typer.Option(help="Bitcoin Core's RPC address, e.g. http://127.0.0.1:18443.")] = None,
    cookie: Annotated[str | None, typer.Option(help="Bitcoin Core's cookie file.")] = None,
    assign: SetFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a node: its directory, configuration and seed. Shows the 24 words once."""
    now = session(context, as_json)
    flags = gather(
        node__network=now.network or None,
        node__operator=operator,
        roles__route=route,
        host__listen=listen,
        host__keep=keep,
        chain__url=rpc,
        chain__cookie_file=cookie,
        set_=assign,
    )
    from rrnode.config import CONFIG_NAME, load
    from rrnode.keys import KeyTree, SeedFile, new_words

    seed, config = SeedFile(now.data_dir), now.data_dir / CONFIG_NAME
    for there in (config, seed.path):
        if there.exists():
            raise UserError(
                f"there is a node in {now.data_dir} already ({there.name})", "choose another directory with --datadir"
            )
    settings = load(now.data_dir, flags=flags, need_file=False)
    words = _asked_words() if restore else new_words()
    keys = KeyTree(words, settings.network)
    _write(settings, flags, lambda: seed.create(words, fresh=not restore))
    from rrnode.control.text import peer_text

    found = {
        "data_dir": str(now.data_dir),
        "config": str(config),
        "network": settings.node.network,
        "peer_id": peer_text(keys.node_id()),
        "restored": restore,
    }
    if as_json:
        emit(found if restore else {**found, "words": words.split()})
        return
    _show_new(found, None if restore else words.split())


def _write(settings: "Settings", flags: Mapping[str, str], write_seed: Callable[[], None]) -> None:
    """Directory, seed, configuration, in this order: a node is there once its configuration is."""
    from rrnode.config import CONFIG_NAME
    from rrnode.config.template import render
    from rrnode.datadir import make_private

    places = {("node", "network")} | {(name.partition(".")[0], name.partition(".")[2]) for name in flags}
    chosen = {(section, key): getattr(getattr(settings, section), key) for section, key in places}
    make_private(settings.data_dir)
    write_seed()
    path = settings.data_dir / CONFIG_NAME
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(render(settings.node.network, chosen))
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror}", "check the disk, then try again") from None


def _asked_words() -> str:
    from rrnode.keys import check_words

    if sys.stdin.isatty():
        text = typer.prompt("The 24 words, separated by spaces", hide_input=True, err=True)
    else:
        text = sys.stdin.read(4096)
    return check_words(text)


def _show_new(found: Mapping[str, Any], words: list[str] | None) -> None:
    from rrnode.cli.wallet import numbered

    show.pairs([("node", found["peer_id"]), ("network", found["network"]), ("configuration", found["config"])])
    if words is not None:
        say("\nWrite these 24 words on paper, now. They are the only way to your coins when this machine is lost.")
        say("Whoever reads them owns the coins; nobody who helps you ever needs them.\n")
        say(numbered(words))
    say(f"\nStart it with: rrnode --datadir {found['data_dir']} start")


# --- start ------------------------------------------------------------------------------------------------------------


def start(
    context: typer.Context,
    background: Annotated[
        bool, typer.Option("--background", "--daemon", help="Return when it runs; log to a file.")
    ] = False,
    listen: ListenFlag = None,
    keep: KeepFlag = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    assign: SetFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Run the node, in the foreground unless told otherwise. Stop it with Ctrl-C or `rrnode stop`."""
    now = session(context, as_json)
    flags = gather(host__listen=listen, host__keep=keep, node__log_level=log_level, set_=assign)
    settings = read_settings(now, flags)
    if background:
        _in_background(now, settings, flags)
    else:
        _in_foreground(now, settings)


def _in_foreground(now: Session, settings: "Settings") -> None:
    from functools import partial

    from rrnode import log
    from rrnode.datadir import GUARD_MOMENT, PID_NAME, check_private, locked

    check_private(settings.data_dir)
    with locked(settings.data_dir, patience=GUARD_MOMENT):
        log.setup(settings.node.log_level, settings.node.log_format)
        import trio

        from rrnode.start import run

        def ready(*_facts: object) -> None:
            if now.as_json:
                emit({"ready": True, "pid": os.getpid(), "data_dir": str(settings.data_dir)})
            elif sys.stderr.isatty():
                progress().print("The node runs. Stop it with Ctrl-C.", markup=False)

        try:
            trio.run(partial(run, settings, ready=ready))
        finally:
            pid = settings.data_dir / PID_NAME
            if pid.exists() and pid.read_text().strip() == str(os.getpid()):
                pid.unlink()


def _in_background(now: Session, settings: "Settings", flags: Mapping[str, str]) -> None:
    import subprocess

    from rrnode.datadir import GUARD_MOMENT, LOG_NAME, PID_NAME, check_private, locked

    check_private(settings.data_dir)
    with locked(settings.data_dir, patience=GUARD_MOMENT):
        pass  # a second start is told so here, in words, and not in a log file
    log_path = settings.data_dir / LOG_NAME
    command = [sys.executable, "-m", "rrnode.cli", "--datadir", str(settings.data_dir), "start"]
    for name, value in flags.items():
        command += ["--set", f"{name}={value}"]
    descriptor = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        begin = os.fstat(descriptor).st_size
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=descriptor, stderr=descriptor, start_new_session=True, cwd="/"
        )
    finally:
        os.close(descriptor)
    (settings.data_dir / PID_NAME).write_text(f"{process.pid}\n")
    _wait_until_up(now, process, log_path, begin)
    if now.as_json:
        emit({"ready": True, "pid": process.pid, "data_dir": str(settings.data_dir), "log": str(log_path)})
    else:
        say(f"The node runs (process {process.pid}); its log is {log_path}.")


def _wait_until_up(now: Session, process: "subprocess.Popen[bytes]", log_path: Path, begin: int) -> None:
    from rrnode.control.client import NodeAway

    end = time.monotonic() + START_WITHIN
    while True:
        if process.poll() is not None:
            raise UserError(f"the node ended at once: {_why(log_path, begin)}", f"the whole story is in {log_path}")
        try:
            with now.client() as node:
                node.get("/status")
            return
        except NodeAway:
            if time.monotonic() > end:
                raise UserError(
                    f"the node did not answer within {START_WITHIN:.0f} s; process {process.pid} still tries",
                    f"look at {log_path}",
                ) from None
            time.sleep(0.05)


def _why(log_path: Path, begin: int) -> str:
    """The sentence that the failed node left in its log: the line that `main` writes, else the last one."""
    with log_path.open("rb") as file:
        file.seek(begin)
        lines = [line for line in file.read(1 << 20).decode(errors="replace").splitlines() if line.strip()]
    said = [line.removeprefix("rrnode: ") for line in lines if line.startswith("rrnode: ")]
    return show.clean((said or lines or ["it said nothing"])[-1])
