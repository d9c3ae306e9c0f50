"""As whom a user's clusters run; and how the Slurm backend does something as them: the launcher, through sudo."""

import asyncio
import json
import pwd
from typing import Any

from sciplat.errors import GatewayError
from sciplat.gateway.backends.slurm_queue import SlurmSilent, run
from sciplat.gateway.users.identity import is_person

_LIMIT = 40.0  # seconds for sudo and the launcher, which has limits of its own


async def launch(launcher: str, username: str, request: dict[str, Any]) -> dict[str, Any]:
    """Let the launcher do something as a user.

    Parameters
    ----------
    launcher : str
        Its path.
    username : str
    request : dict

    Raises
    ------
    GatewayError
        If it refuses, or Slurm does; SlurmSilent if Slurm does not answer.
    """
    user = (await asyncio.to_thread(find_account, username)).pw_name
    command = ["/usr/bin/sudo", "-n", "-H", "-u", user, "--", launcher]
    status, told, wrong = await run(command, limit=_LIMIT, text=json.dumps(request))
    try:
        answer = json.loads(told)
    except ValueError:
        found = " ".join(wrong.split())[:300] or f"exit status {status}"
        hint = f"the rule for sudo in deploy/slurm: may the gateway run {launcher} as {user}?"
        raise GatewayError(f"nothing can be started as {user}", found=found, hint=hint) from None
    if answer["ok"]:
        return dict(answer)
    if answer["code"] == "silent":
        raise SlurmSilent("Slurm does not answer", found=answer["error"])
    who = "Slurm" if answer["code"] == "refused" else "the launcher"
    raise GatewayError(f"{who} refuses it", found=answer["error"])


def find_account(username: str) -> pwd.struct_passwd:
    """Return the Unix account as which a user's clusters run.

    Raises
    ------
    GatewayError
        If there is none, or it is not a person's.
    """
    try:
        account = pwd.getpwnam(username)
    except KeyError:
        raise GatewayError(f"this machine has no user {username}") from None
    if not is_person(account):
        raise GatewayError(f"{username} is a system account, which gets no clusters", found=f"uid {account.pw_uid}")
    if account.pw_name.startswith(("-", "#")):  # sudo would take it for an option or a number
        raise GatewayError(f"no clusters for the user {username}")
    return account
