"""A connection of client.py's Device to the server of examples/quickstart."""
import json
import os
import socket
import time

from client import REGISTER, Fault, decode, encode, list_of, parse

PATIENCE = 15  # seconds to wait for anything; more means that it does not come


class Refused(Exception):
    """The server has answered a request with an error."""

    def __init__(self, answer):
        super().__init__(f"{answer['code']}: {answer['message']}")
        self.code, self.answer = answer["code"], answer


class Link:
    """One connection of a device: requests to the server, and frames of the engine in between."""

    def __init__(self, device, addr):
        host, _, port = addr.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), PATIENCE)
        self.device, self.rest, self.answers, self.refs = device, b"", {}, 0
        self.caught_up, self.nacks, self.redelivered, self.closed = False, False, False, None
        self.came, self.pongs, self.resets = [], [], []
        self.ask("auth", account=device.account, password="secret-of-" + device.account)

    def ask(self, kind, /, **fields):
        """Makes a request and returns the answer. Raises Refused, or EOFError if the connection ends before it comes."""
        self.refs += 1
        ref = str(self.refs)
        self.write(json.dumps({"t": kind, "ref": ref, **fields}).encode())
        self.until(lambda: ref in self.answers, f"the answer to {kind}")
        answer = self.answers.pop(ref)
        if answer["t"] == "error":
            raise Refused(answer)
        return answer

    def write(self, line):
        self.socket.sendall(line + b"\n")

    def say(self, frame):
        self.write(encode("client", frame))

    def until(self, done, what):
        """Handles lines until something has happened."""
        end = time.monotonic() + PATIENCE
        while not done():
            if time.monotonic() > end:
                raise TimeoutError(f"{self.device.path}: {what} does not come")
            self.take(self.line())

    def line(self):
        while b"\n" not in self.rest:
            more = self.socket.recv(65536)
            if not more:
                raise EOFError("the connection is over")
            self.rest += more
        line, _, self.rest = self.rest.partition(b"\n")
        return line

    def take(self, line):
        kind = json.loads(line)["t"]
        if kind in ("ok", "error"):
            answer = json.loads(line)
            self.answers[answer.get("ref")] = answer
            return
        try:
            frame = decode("server", line)
        except Fault as fault:
            if str(fault) == "type":
                return  # of a newer server
            raise
        self.came += [entry.get("id") for entry in frame.get("entries", [])]
        reply = self.device.receive(frame)
        if reply and reply["t"] == "ack" and self.nacks:
            reply = {"t": "nack", "position": reply["position"], "code": "bad_payload"}
        if reply:
            self.say(reply)
        self.caught_up = self.caught_up or kind == "caughtUp"
        self.redelivered = self.redelivered or frame.get("redelivered", False)
        if kind == "closed":
            self.closed = frame
        elif kind == "pong":
            self.pongs.append(frame.get("nonce", ""))
        elif kind == "reset":
            self.resets.append(frame["reason"])

    def log_in(self, platform):
        answer = self.ask("login", device=os.path.basename(self.device.path), platform=platform, name=self.device.path)
        self.device.login, self.device.token = answer["login"], answer["token"]
        self.device.save()

    def attach(self):
        position = self.device.position
        where = {"position": {name: str(value) for name, value in position.items()}} if position else {}
        self.ask("attach", login=self.device.login, token=self.device.token, **where)
        self.until(lambda: self.caught_up, "caughtUp")
        return self

    def act(self, kind, /, **fields):
        """Makes a request that does something, and records what the engine does not tell the login that did it."""
        answer = self.ask(kind, **fields)
        for register in list_of(REGISTER).read(parse(json.dumps(answer.get("states", [])).encode()), False):
            self.device.set_register(register)
        if kind == "send":
            own = {"kind": fields.get("kind", "message"), "from": self.device.account, "id": answer["id"], "seq": 0}
            if "of" in fields:
                own["key"] = f"\n{fields['of']}\n"
            own.update({name: fields[name] for name in ("clientId", "conversation") if name in fields})
            self.device.apply({**own, "bytes": fields.get("text", "").encode()}, answer["id"])
        self.device.save()
        return answer

    def drop(self):
        self.socket.close()
