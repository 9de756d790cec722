"""``pyengine login`` and ``pyengine logout``."""

from __future__ import annotations

import sys

from pyengine.cli.client import ApiError, CommandError
from pyengine.cli.credentials import INDEX, Auth, Credentials, hostname
from pyengine.cli.flags import Flag, Options, command
from pyengine.cli.session import Session

_UNENCRYPTED = """
WARNING! Your credentials are stored unencrypted in '{path}'.
Configure a credential helper to remove this warning. See
https://docs.docker.com/go/credential-store/
"""
_REGISTER = (
    "Log in with your Docker ID or email address to push and pull images from Docker Hub. If you "
    "don't have a Docker ID, head over to https://hub.docker.com/ to create one."
)


@command(
    "[OPTIONS] [SERVER]",
    "Authenticate to a registry",
    [
        Flag("password", "p", "string", "Password or Personal Access Token (PAT)"),
        Flag(
            "password-stdin",
            "",
            "bool",
            "Take the Password or Personal Access Token (PAT) from stdin",
        ),
        Flag("username", "u", "string", "Username"),
    ],
    at_most=1,
    creates=True,
)
def login(session: Session, options: Options, arguments: list[str]) -> None:
    _check(options)
    username, password = options["username"], options["password"]
    if password:
        print(
            "WARNING! Using --password via the CLI is insecure. Use --password-stdin.",
            file=sys.stderr,
        )
    if options["password-stdin"]:
        password = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    server = _server(arguments[0] if arguments else "")
    kept = Credentials(session.config_dir())
    stored = Auth(server)
    if not username and not password:
        stored = kept.get(server)
        if stored.username and stored.password and _login_again(session, kept, stored):
            return
    if not (username and password) and not sys.stdin.isatty():
        raise CommandError("Error: Cannot perform an interactive login from a non TTY device")
    auth = Auth(server, username or _ask_username(server, stored.username), password)
    auth.password = auth.password or _ask_password()
    _login(session, kept, auth)


def _check(options: Options) -> None:
    if options["password-stdin"]:
        if "password" in options.changed:
            raise CommandError(
                "conflicting options: cannot specify both --password and --password-stdin"
            )
        if "username" not in options.changed:
            raise CommandError("the --password-stdin option requires --username to be set")
    for name in ("username", "password"):
        if name in options.changed and not options[name]:
            raise CommandError(f"{name} is empty")


def _server(given: str) -> str:
    return hostname(given) if given and given != "docker.io" else INDEX


def _login(session: Session, kept: Credentials, auth: Auth) -> None:
    """Let the engine try the credentials; keep them if the registry takes them."""
    answer = session.client.post("/auth", body=auth.body()) or {}
    if answer.get("IdentityToken"):
        auth.password, auth.identity_token = "", answer["IdentityToken"]
    if kept.store(auth):
        print(_UNENCRYPTED.format(path=kept.path), file=sys.stderr)
    if answer.get("Status"):
        print(answer["Status"])


def _login_again(session: Session, kept: Credentials, stored: Auth) -> bool:
    """Whether what is stored is still taken."""
    print(
        f"Authenticating with existing credentials... [Username: {stored.username}]\n"
        "To login with a different account, run 'pyengine logout' followed by 'pyengine login'\n",
        file=sys.stderr,
    )
    try:
        _login(session, kept, stored)
    except ApiError as error:
        if error.status == 401:
            print("Stored credentials invalid or expired", file=sys.stderr)
        else:
            print("Login did not succeed, error:", error, file=sys.stderr)
        return False
    return True


def _ask_username(server: str, known: str) -> str:
    if server == INDEX:
        print(_REGISTER)
    sys.stdout.write(f"Username ({known}): " if known else "Username: ")
    sys.stdout.flush()
    answer = sys.stdin.readline().strip() or known
    if not answer:
        raise CommandError("Error: Non-null Username Required")
    return answer


def _ask_password() -> str:
    """Read a line from the terminal, which does not show it."""
    import termios

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    silent = [*before]
    silent[3] &= ~termios.ECHO
    sys.stdout.write("Password: ")
    sys.stdout.flush()
    termios.tcsetattr(terminal, termios.TCSADRAIN, silent)
    try:
        answer = sys.stdin.readline().rstrip("\r\n")
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        print(flush=True)
    if not answer:
        raise CommandError("Error: Password Required")
    return answer


@command("[SERVER]", "Log out from a registry", at_most=1)
def logout(session: Session, _: Options, arguments: list[str]) -> None:
    server = arguments[0] if arguments else INDEX
    host = hostname(server) if arguments else server
    # Older clients kept credentials under whole addresses.
    spellings = [server, host, f"http://{host}", f"https://{host}"] if arguments else [server]
    kept = Credentials(session.config_dir())
    print("Removing login credentials for", host)
    errors = {}
    for spelling in spellings:
        try:
            kept.erase(spelling)
        except CommandError as error:
            errors[spelling] = error
    if len(errors) == len(set(spellings)):
        sys.stdout.flush()
        print("WARNING: could not erase credentials:", file=sys.stderr)
        for spelling, reason in errors.items():
            print(f"{spelling}: {reason}", file=sys.stderr)
